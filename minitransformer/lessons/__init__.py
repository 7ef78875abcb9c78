"""What goes with the eight lessons in `notebooks/`: their exercises, and checks that say which mistake was made.

One file for each lesson has its exercises: what is asked, the right answer by the library's own code, known wrong
answers, each with its diagnosis, and hints. In a notebook: `mt.check("1.3", attention)`, `mt.hint("1.3")`,
`mt.solution("1.3")`, `mt.progress(1)`.
"""

from minitransformer.lessons.check import Progress, Verdict, check, hint, judge, progress, solution

__all__ = ["Progress", "Verdict", "check", "hint", "judge", "progress", "solution"]
