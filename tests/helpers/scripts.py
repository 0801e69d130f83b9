"""Scripts of docs/, which stand in no package, as modules."""

import importlib.util


def load_script(path):
    """Return a .py file as a module that bears its name; it is not put into sys.modules."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
