import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events import read_motion

HEADER = "t_s,wx_rad_s,wy_rad_s,wz_rad_s,status\n"


def test_the_four_columns_are_read_and_others_ignored(tmp_path):
    path = tmp_path / "motion.csv"
    path.write_text(HEADER + "0.0,1,2,3,converged\n0.5,4,5,6,stalled\n")
    motion = read_motion(path)
    np.testing.assert_array_equal(motion.t_s, [0.0, 0.5])
    np.testing.assert_array_equal(motion.omega_rad_s, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,x\n0,1\n", "expected a table with columns t_s,wx_rad_s"),
        ("", "expected a table"),
        (HEADER + "0,1,2,nan,ok\n", "line 2: 'nan' is no finite number"),
        (HEADER + "0,1,2,3,ok\n1,1,2\n", "line 3: None is no finite number"),
        (HEADER + "1,1,2,3,ok\n0,1,2,3,ok\n", "line 3: time 0 s does not increase"),
    ],
)
def test_what_is_no_motion_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "motion.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"motion.csv: .*{message}"):
        read_motion(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read"):
        read_motion(tmp_path / "gone.csv")
