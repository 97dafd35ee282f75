#!/bin/sh
# CycloneDX's own library 11.12.0, from PyPI, which holds a list of components against the published schema. Prints a Python
# that has it, and the check.
. "$(dirname -- "$0")/lib.sh"

folder=$PEERS/cyclonedx-11.12.0
print_if_there "$folder/bin/python" "$here/cyclonedx-check"
about_to_install "CycloneDX's library"
print_if_there "$folder/bin/python" "$here/cyclonedx-check"
rm -rf "$folder.new" "$folder"
python3 -m venv "$folder.new" >&2 || { apt install --no-install-recommends python3-venv && /usr/bin/python3 -m venv "$folder.new" >&2; } ||
    fail "no Python environment can be made"
"$folder.new/bin/python" -m pip install -q 'cyclonedx-python-lib[json-validation]==11.12.0' >&2 ||
    fail "pip cannot install cyclonedx-python-lib"
mv "$folder.new" "$folder"
print_if_there "$folder/bin/python" "$here/cyclonedx-check"
fail "CycloneDX's library is not where it was installed"
