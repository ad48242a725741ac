"""Tables whose column of patients or splits is misspelt, and names that are only similar."""

import pytest
from support.folders import refusal
from support.tables import write_table

import medvlad as mv

MISSPELT = [("pateint", "patient", "patient"), ("Patients", "patient", "patient")]
MISSPELT += [("subject-idd", "subject_id", "patient"), ("splitt", "split", "split")]


@pytest.mark.parametrize(("name", "meant", "role"), MISSPELT)
def test_a_misspelt_column_of_patients_or_splits_is_no_covariate(tmp_path, name, meant, role):
    """Without it, a data set gives results that look right."""
    cells = ("train", "train", "test", "test") if role == "split" else "abcc"
    rows = [f"{i}.png,{'xy'[i % 2]},{cell}" for i, cell in enumerate(cells)]
    table = write_table(tmp_path / "t.csv", f"image,label,{name}", *rows)
    refusal(lambda: mv.load_manifest(table), repr(name), f"misspelt {meant!r}", f"`{role}_column`", "rename")
    named = mv.load_manifest(table, **{f"{role}_column": name})
    assert sorted(named.splits if role == "split" else named.groups) == sorted(cells)
    table = write_table(tmp_path / "u.csv", f"image,label,{name},{meant}", *(f"{row},train" for row in rows))
    assert set(mv.load_manifest(table).covariates) == {name}


def test_patients_may_come_from_a_pattern_although_a_column_looks_like_theirs(tmp_path):
    rows = ["1a.png,x,p", "1b.png,y,q", "2a.png,x,r"]
    table = write_table(tmp_path / "t.csv", "image,label,patients", *rows)
    data = mv.load_manifest(table, group_pattern=r"(\d)")
    assert (data.groups.tolist(), set(data.covariates)) == (["1", "2", "1"], {"patients"})


@pytest.mark.parametrize(
    "name",
    [
        *("patient_age", "inpatient", "n_patients", "patent", "sex", "seat", "dataset", "splits", "split1"),
        *("kfold", "center_x", "centre_y", "suite", "date", "view", "device"),
    ],
)
def test_other_names_are_covariates(tmp_path, name):
    rows = (f"{i}.png,{'xy'[i % 2]},{i % 2}" for i in range(4))
    table = write_table(tmp_path / "t.csv", f"image,label,{name}", *rows)
    assert set(mv.load_manifest(table).covariates) == {name}
