"""Objects of large packages are recognised without importing these packages."""

import subprocess
import sys

import pytest
from sklearn.decomposition import PCA

from medvlad._util.loaded_class import is_instance_of
from medvlad.encoders.vector_pca import VectorPCA


@pytest.mark.parametrize(
    ("value", "expected"), [(PCA(), True), (VectorPCA(2), True), (PCA, False), (3, False)]
)
def test_an_instance_of_a_class_is_recognised(value, expected):
    assert is_instance_of(value, "sklearn.decomposition", "PCA") is expected


def test_a_module_that_was_not_imported_stays_so():
    program = (
        "import sys\n"
        "from medvlad._util.loaded_class import is_instance_of\n"
        "print(is_instance_of(3, 'colorsys', 'sqrt'), 'colorsys' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_class_that_a_module_does_not_have_has_no_instances():
    assert not is_instance_of(3, "sys", "NoSuchClass")
