import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What mmengine looks up under `mmvmt/.mim`: configs for `mmvmt::...`, tools for `mim train`, demos, index of models.
MIM_ENTRIES = ('configs', 'tools', 'demo', 'model-index.yml')


def read_version():
    """Return ``__version__`` of ``mmvmt/version.py`` without importing the package, which needs mmengine."""
    namespace = {}
    exec((ROOT / 'mmvmt' / 'version.py').read_text(encoding='utf-8'), namespace)
    return namespace['__version__']


class BuildWithMim(build_py):
    """Put configs and tools under ``mmvmt/.mim``: copies in a wheel, links in an editable install."""

    def run(self):
        if self.editable_mode:
            super().run()
            self.link_mim()
            return
        # setuptools never deletes from its build folder: without this a wheel would ship files that are long gone.
        shutil.rmtree(Path(self.build_lib) / 'mmvmt', ignore_errors=True)
        super().run()
        self.copy_mim()

    def copy_mim(self):
        target = Path(self.build_lib) / 'mmvmt' / '.mim'
        ignore = shutil.ignore_patterns('__pycache__', '*.py[cod]', 'dev')
        for name in MIM_ENTRIES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, target / name, ignore=ignore)
            elif source.is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target / name)

    def link_mim(self):
        folder = ROOT / 'mmvmt' / '.mim'
        folder.mkdir(exist_ok=True)
        for name in MIM_ENTRIES:
            link = folder / name
            if link.is_symlink():
                link.unlink()
            if (ROOT / name).exists():
                link.symlink_to(os.path.join('..', '..', name))


setup(
    name='mmvmt',
    version=read_version(),
    description='Parameter-efficient multi-task dense prediction with one frozen Swin encoder',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['mmvmt', 'mmvmt.*']),
    package_data={'': ['*.json']},
    include_package_data=False,
    # Neither OpenMMLab distribution is named: both own the import names mmengine, mmcv, mmseg and mmpretrain, and the
    # one named here would overwrite the other in an existing environment. mmcv brings OpenCV.
    install_requires=['matplotlib', 'numpy', 'pillow', 'rich', 'safetensors', 'scikit-image', 'scipy', 'torch>=2.4'],
    extras_require={
        'onnx': ['onnx', 'onnxscript', 'onnxruntime'],
        'timm': ['timm>=1.0.20'],
        'web': ['gradio>=6.31'],
    },
    classifiers=[
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    zip_safe=False,
    cmdclass={'build_py': BuildWithMim},
)
