"""How build.py makes notebooks and web pages from the lessons and the Markdown files.

lessons.py    what the file of a lesson says: its title, its question, its three sentences
readme.py     the parts of tutorials/README.md that follow from the lessons
notebooks.py  lessons and hand-ins as notebooks, and their execution
text.py       Markdown, mathematics and code as HTML
site.py       the pages of the site, and the links between them
"""
