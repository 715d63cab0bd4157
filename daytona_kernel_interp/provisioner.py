"""What the ``argv`` of the installed kernelspecs runs: one sentence for programs that know no kernel provisioners.

Kernelspecs are files outside the package, written by any version of it, so this module keeps its name. The provisioner
itself is :mod:`.jupyter.provisioner`; jupyter_client finds it by its entry point, ``daytona-kernel``.
"""

import sys

if __name__ == "__main__":
    sys.exit(
        "daytona-kernel: this kernel is started by a kernel provisioner of jupyter_client, not by a command line: "
        "use a program that supports provisioners, such as JupyterLab, nbclient or jupyter console."
    )
