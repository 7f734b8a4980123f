"""How the documentation is built: MyST pages, notebooks as committed, API pages from docstrings."""

from importlib.metadata import version as installed

project = "syncyte"
author = "syncyte developers"
copyright = "2026, syncyte developers"
release = version = installed("syncyte")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
napoleon_google_docstring = False
autodoc_typehints = "none"
exclude_patterns = ["_build"]

html_theme = "sphinx_book_theme"
html_title = "syncyte"
html_theme_options = {"home_page_in_toc": True, "show_toc_level": 2}
