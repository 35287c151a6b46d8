"""The rule needs nothing but torch: scaling and the teacher work without any other package."""

from __future__ import annotations

import re
import subprocess
import sys

from test_metadata import all_requirements

PROGRAM = """
import sys
for name in {blocked}:
    sys.modules[name] = None
import torch
from asr_emapl.ema import EmaTeacher
from asr_emapl.running_mean import RunningMean
from asr_emapl.scaling import scale_momentum

student = torch.nn.Linear(2, 2)
teacher, mean = EmaTeacher(student, half_life=3600.0), RunningMean(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
student(torch.ones(1, 2)).sum().backward()
optimizer.step()
teacher.update(10.0)
assert scale_momentum(0.9, 2.0) == 0.9**2
mean.update(10.0)
print(sorted(name for name in sys.modules if name.startswith("asr_emapl.")))
"""


def test_scaling_and_the_teacher_need_nothing_but_torch():
    names = {re.sub(r"[-.]", "_", name).lower() for name in all_requirements()} - {"torch"}
    blocked = [*names, "yaml", "silero_vad", "kenlm"]
    program = PROGRAM.format(blocked=blocked)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "asr_emapl.storage" not in done.stdout
