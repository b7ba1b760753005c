"""What a person sees: progress on stderr, results on stdout, pictures and pages in files.

progress.py shows how far a long computation is, notebook_bars.py likewise in a notebook. report.py
prints the verdict of one run, judge.py that on a model or an adapter; tables.py prints sweeps, laws
and plans. notebook.py has what a notebook shows of an object, and one_line.py the line as which
print() shows an object. axes.py has what every picture needs, recall.py the picture of what is
recited, and plots.py all other pictures; they import matplotlib only when a figure is made. page.py
writes a page, which is one HTML file, from the template, style and scripts in the folder `page`;
tokens.py makes its data of target tokens, and figures.py its numbers. run.py has the page of a run,
document.py those of what is judged, and grid.py that of a sweep, with the data of its laws from
laws.py and of its planner from planner.py. Read report.py first.
"""
