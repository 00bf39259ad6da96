"""Run one compiled operator of mmcv on every device it has to work on; exit code 1 and the reason when it does not."""

import argparse
import sys


def run_deformable_convolution(device: str) -> None:
    """Run a modulated deformable convolution with zero offsets and compare it with the plain convolution it equals.

    Args:
        device (str): Where to run it, ``cpu`` or ``cuda``.

    Raises:
        ImportError: If mmcv was installed without operators, or they were compiled against another torch.
        RuntimeError: If the operators were not compiled for ``device``, or the result is wrong.
    """
    import torch
    from mmcv.ops import modulated_deform_conv2d

    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(1, 2, 6, 6, generator=generator).to(device)
    weight = torch.randn(3, 2, 3, 3, generator=generator).to(device)
    offset = torch.zeros(1, 18, 6, 6, device=device)
    mask = torch.ones(1, 9, 6, 6, device=device)
    deformed = modulated_deform_conv2d(feature, offset, mask, weight, None, 1, 1, 1, 1, 1)
    plain = torch.nn.functional.conv2d(feature, weight, padding=1)
    # cuDNN may compute the plain convolution in TF32, whose mantissa has 10 bits.
    error = (deformed - plain).abs().max().item()
    if error > 5e-2:
        raise RuntimeError(f'modulated_deform_conv2d on {device} is off by {error:.3g}')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cuda', action='store_true', help='the operators have to be compiled for CUDA')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    cuda_wanted = parse_args(argv).cuda
    try:
        import torch
        from mmcv.ops import get_compiling_cuda_version

        run_deformable_convolution('cpu')
        if cuda_wanted:
            if get_compiling_cuda_version() == 'not available':
                raise RuntimeError('mmcv was compiled without CUDA')
            if torch.cuda.is_available():
                run_deformable_convolution('cuda')
    except (ImportError, RuntimeError) as error:
        print(f'mmcv.ops: {type(error).__name__}: {error}', file=sys.stderr)
        return 1
    print(f'mmcv.ops: works on the CPU{" and with CUDA " + get_compiling_cuda_version() if cuda_wanted else ""}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
