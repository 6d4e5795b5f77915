import numpy as np

from benchmarks import full_size

# Two objects of one class in one place, as faint as those of random weights.
TWICE = {
    "scores": np.array([[0.04, 0.01, 0.0]], np.float32),
    "labels": np.array([[1, 1, 0]], np.int32),
    "boxes": np.array([[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.49], [0, 0, 0, 0]]], np.float32),
}


def test_faint_objects_are_compared_too_each_with_its_own():
    found = full_size._compared(TWICE, TWICE)

    assert found.startswith(
        "2 of 2 objects paired (best score 0.04); of those scores differ by 0.0"
    )


def test_a_box_is_the_same_object_once_only():
    once = {**TWICE, "scores": np.array([[0.04, 0.0, 0.0]], np.float32)}

    assert full_size._compared(TWICE, once).startswith("1 of 2 objects paired")
    assert full_size._compared(once, TWICE).startswith("1 of 1 objects paired")
