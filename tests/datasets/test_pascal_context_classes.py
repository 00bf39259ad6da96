from mmvmt.datasets import normals_valid_ids, pascal_context_classes


def test_the_list_has_459_consecutive_ids():
    assert list(pascal_context_classes().values()) == list(range(1, 460))


def test_names_have_the_ids_of_pascal_context():
    classes = pascal_context_classes()
    assert (classes['accordion'], classes['aeroplane'], classes['wall'], classes['sky']) == (1, 2, 440, 360)


def test_170_classes_carry_valid_normals():
    classes = pascal_context_classes()
    assert len(normals_valid_ids()) == 170
    assert normals_valid_ids() <= set(classes.values())
    assert {classes['wall'], classes['floor'], classes['tvmonitor']} <= normals_valid_ids()
    assert normals_valid_ids().isdisjoint({classes['sky'], classes['unknown']})


def test_changing_the_returned_classes_changes_no_later_call():
    pascal_context_classes().clear()
    assert len(pascal_context_classes()) == 459
