import commands


def test_all_modules_are_registered_without_a_look_up():
    script = (
        'from mmengine.registry import DefaultScope\n'
        'from mmvmt.utils import register_all_modules\n'
        'from mmvmt.registry import ADAPTERS, DATASETS, EVALUATOR, HOOKS, MODELS, TRANSFORMS, VISUALIZERS\n'
        'register_all_modules(init_default_scope=False)\n'
        'registries = [ADAPTERS, DATASETS, EVALUATOR, HOOKS, MODELS, TRANSFORMS, VISUALIZERS]\n'
        'print(all(len(registry.module_dict) for registry in registries))\n'
        'print(DefaultScope.get_current_instance())\n'
        'register_all_modules()\n'
        'print(DefaultScope.get_current_instance().scope_name)\n'
    )
    # Packages that it imports may print lines of their own before.
    assert commands.run('-c', script).stdout.split()[-3:] == ['True', 'None', 'mmvmt']


def test_registries_without_modules_of_ours_say_nothing(tmp_path):
    """A registry without a package of its own asks for ``mmvmt.utils``, and warns where there is none."""
    script = tmp_path / 'script.py'
    script.write_text(
        'import mmvmt\n'
        'from mmengine.registry import LOG_PROCESSORS, init_default_scope\n'
        "init_default_scope('mmvmt')\n"
        "print(type(LOG_PROCESSORS.build(dict(type='LogProcessor'))).__name__)\n"
    )
    result = commands.run(script)
    assert result.stdout.split() == ['LogProcessor']
    assert 'WARNING' not in result.stdout + result.stderr
