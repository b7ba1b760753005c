"""The checks of the course: what a hand-in is asked, and how its answers are judged.

`hand_in` finds the files of a student and asks them for answers. `server` holds the code of the
student and answers; `values` are the plain values that pass between the two. `grading` has what the
checks use to judge an answer. `test_exercise*` check exercises.py, and `test_rung*` mymem.py.
`scenarios` do with the student's code what takes several calls. `ladder` is common to the checks of
all rungs; `library` has the rungs, taken from tinymem; `imports` sees what a student took from
there; `expected` computes in plain torch what the rungs should give.
"""
