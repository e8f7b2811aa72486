import os

import setuptools

# pbr takes the version from git or from a package's metadata; a plain tarball has neither.
if not (os.path.exists(".git") or os.path.exists("PKG-INFO")):
    os.environ.setdefault("PBR_VERSION", "0.1.0")

setuptools.setup(setup_requires=["pbr>=6.1.1"], pbr=True)
