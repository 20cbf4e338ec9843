#!/bin/sh
# Installs AnoSeg Edge as a service, or removes it: `make install`, `make uninstall`. For Debian, Ubuntu and JetPack.
#   PREFIX   the virtual environment (/opt/anoseg)      PYTHON  the Python that creates it (python3)
#   DESTDIR  install into this folder instead of the running system, for a package or an image
#   EXTRAS   optional parts, separated by commas, for example EXTRAS=tensorrt
#   ROOT     where JetPack and CUDA are looked for (/), for a test
# Run it again to upgrade. Under /etc/anoseg it overwrites nothing but its four examples.
set -eu
umask 022
cd "$(dirname "$0")/.."

PREFIX=${PREFIX:-/opt/anoseg}
DESTDIR=${DESTDIR:-}
PYTHON=${PYTHON:-python3}
EXTRAS=${EXTRAS:-}
ROOT=${ROOT:-}
COMMANDS="anosegd anoseg-engine"
UNITS="anosegd@.service anosegd-view@.service anosegd-bridge@.service anosegd-archive@.service"

venv=$DESTDIR$PREFIX
config=$DESTDIR/etc/anoseg
store=$DESTDIR/var/lib/anoseg/engines
lib=$DESTDIR/usr/local/lib  # systemd's place for software without a package; /etc belongs to the administrator
bin=$DESTDIR/usr/local/bin

say() { echo "install.sh: $*"; }
fail() {
    echo "install.sh: $1" >&2
    shift
    for hint in "$@"; do echo "  $hint" >&2; done
    exit 1
}

check_target() {
    case $PREFIX in /*) ;; *) fail "PREFIX is $PREFIX" "give an absolute path, such as /opt/anoseg" ;; esac
    case $DESTDIR in "" | /*) ;; *) fail "DESTDIR is $DESTDIR" "give an absolute path" ;; esac
    if [ -z "$DESTDIR" ] && [ "$(id -u)" != 0 ]; then
        fail "only root can do this" "run: sudo make $1" "or use a folder: make $1 DESTDIR=/tmp/anoseg"
    fi
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv is not a virtual environment and not empty" "give another PREFIX"
    fi
}

on_jetpack() { [ -e "$ROOT/etc/nv_tegra_release" ]; }

with_tensorrt() { case ",$EXTRAS," in *,tensorrt,*) ;; *) return 1 ;; esac; }

# pycuda has no wheels. It compiles against the CUDA toolkit, whose folder is on no PATH, least of all sudo's.
find_cuda() {
    PATH=$PATH:$ROOT/usr/local/cuda/bin
    export PATH
    command -v nvcc >/dev/null ||
        fail "TensorRT needs pycuda, which compiles against the CUDA toolkit, and nvcc is missing" \
            "on a Jetson run: apt install nvidia-jetpack; elsewhere install cuda-toolkit; then this again"
    "$PYTHON" -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null ||
        fail "TensorRT needs pycuda, which compiles against Python's headers, and they are missing" \
            "run: apt install python3-dev g++, then this again"
}

make_environment() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$PYTHON is missing or older than Python 3.10" "name another one: make install PYTHON=python3.12"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON cannot create virtual environments" "run: apt install python3-venv"
    # Recreate an environment that has another Python version or another setting for the system's packages.
    set --
    if on_jetpack; then set -- --system-site-packages; fi
    if [ -e "$venv/pyvenv.cfg" ]; then
        version='import sys; print(sys.version_info[:2])'
        wanted=$(on_jetpack && echo true || echo false)
        [ "$("$venv/bin/python" -c "$version" 2>&1)" = "$("$PYTHON" -c "$version")" ] &&
            grep -q "^include-system-site-packages = $wanted" "$venv/pyvenv.cfg" || set -- "$@" --clear
    fi
    "$PYTHON" -m venv "$@" "$venv"
}

install_package() {
    pip="$venv/bin/python -m pip --disable-pip-version-check"
    constraints=constraints.txt
    extras=$EXTRAS
    # JetPack has TensorRT as Debian packages, for its own Python. What pip has is for other machines.
    if on_jetpack && with_tensorrt; then extras=$(echo "$EXTRAS" | tr , '\n' | grep -vx tensorrt | paste -sd, -); fi
    # JetPack's OpenCV supports GStreamer and the Jetson's cameras. It is a Debian package, unknown to pip.
    system_cv=$(on_jetpack && "$PYTHON" -c 'import cv2; print(cv2.__version__)' 2>/dev/null || true)
    if [ -n "$system_cv" ]; then
        constraints=$venv/constraints.txt
        grep -vE '^(numpy|opencv-python)==' constraints.txt >"$constraints"
        # An OpenCV compiled for NumPy 1 does not load with NumPy 2.
        if "$PYTHON" -c 'import numpy, sys; sys.exit(numpy.__version__ >= "2")'; then echo 'numpy<2' >>"$constraints"; fi
    elif on_jetpack; then
        say "this JetPack has no OpenCV (apt install nvidia-opencv): the one from pip is used, without GStreamer"
    fi
    $pip install --quiet --upgrade -c "$constraints" ".${extras:+[$extras]}"
    if [ "$extras" != "$EXTRAS" ]; then $pip install --quiet --upgrade -c "$constraints" pycuda; fi
    $pip uninstall --quiet --yes openvino-telemetry  # it reports each start to OpenVINO's makers; OpenVINO works without it
    if [ -n "$system_cv" ]; then
        $pip uninstall --quiet --yes opencv-python  # it would hide the system's OpenCV
        say "using the system's OpenCV $system_cv"
    fi
    "$venv/bin/python" -c 'import cv2' 2>"$venv/cv2.log" ||
        fail "OpenCV does not load: $(tail -1 "$venv/cv2.log")" "run: apt install libgl1 libglib2.0-0, then this again"
    if on_jetpack; then see_tensorrt; fi
    if [ -n "$DESTDIR" ]; then  # scripts contain the interpreter's path: make it the path on the target
        grep -rlIF "$venv" "$venv/bin" "$venv/pyvenv.cfg" | while read -r file; do sed -i "s|$venv|$PREFIX|g" "$file"; done
    fi
}

# Some systems keep TensorRT in a folder that no environment sees. Its path is then added to this one's, as the last.
see_tensorrt() {
    where='import os, tensorrt; print(os.path.dirname(os.path.dirname(os.path.abspath(tensorrt.__file__))))'
    if ! "$venv/bin/python" -c "$where" >/dev/null 2>&1; then
        folder=$("$PYTHON" -c "$where" 2>/dev/null) || {
            say "this JetPack has no TensorRT for $PYTHON (apt install nvidia-tensorrt)"
            return
        }
        echo "$folder" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/jetpack-tensorrt.pth"
    fi
    "$venv/bin/python" -c "$where" >/dev/null 2>"$venv/tensorrt.log" ||
        fail "the system's TensorRT does not load: $(tail -1 "$venv/tensorrt.log")" "give its Python: make install PYTHON=python3"
    say "using the system's TensorRT $("$venv/bin/python" -c 'import tensorrt; print(tensorrt.__version__)')"
}

install_files() {
    mkdir -p "$lib/systemd/system" "$lib/sysusers.d" "$lib/tmpfiles.d" "$bin" "$config" "$store"
    for unit in $UNITS; do sed "s|/opt/anoseg/|$PREFIX/|" "systemd/$unit" >"$lib/systemd/system/$unit"; done
    install -m 644 systemd/sysusers.conf "$lib/sysusers.d/anoseg.conf"
    install -m 644 systemd/tmpfiles.conf "$lib/tmpfiles.d/anoseg.conf"
    for command in $COMMANDS; do ln -sf "$PREFIX/bin/$command" "$bin/$command"; done
    install -m 644 configs/line.yaml "$config/example.yaml"
    install -m 644 configs/reference.yaml "$config/reference.yaml"
    install -m 644 configs/bridge.yaml "$config/bridge.yaml"
    install -m 644 configs/archive.yaml "$config/archive.yaml"
    rm -rf "$store/.demo"
    cp -R engines/store/demo "$store/.demo"
    chmod -R u=rwX,go=rX "$store/.demo"  # the service's user must read it, whatever the umask of the checkout was
    replace_demo
}

# Versions that somebody added to the demo stay, with the list that says which version is released.
replace_demo() {
    if [ -L "$store/demo" ]; then rm "$store/demo"; fi  # the versions that it points to are not the demo's
    mkdir -p "$store/demo"
    chmod u=rwx,go=rx "$store/demo"  # an earlier installer may have made it for root alone
    added=
    for version in "$store/demo"/[0-9]*/; do
        number=$(basename "$version")
        if [ -d "$version" ] && [ ! -e "$store/.demo/$number" ]; then added="$added $number"; fi
    done
    for version in "$store/.demo"/[0-9]*/; do
        number=$(basename "$version")
        rm -rf "$store/demo/$number"
        mv "$version" "$store/demo/$number"
        if [ -n "$added" ]; then
            say "kept $store/demo/releases.json and the versions$added. To use the demo's: anoseg-engine release $store/demo/$number"
        fi
    done
    if [ -z "$added" ] || [ ! -e "$store/demo/releases.json" ]; then mv "$store/.demo/releases.json" "$store/demo/"; fi
    rm -rf "$store/.demo"
}

tell_system() {
    systemd-sysusers "$lib/sysusers.d/anoseg.conf"
    systemd-tmpfiles --create "$lib/tmpfiles.d/anoseg.conf"
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

# Stations that run now or start at the next boot.
stations() {
    {
        if [ -d /run/systemd/system ]; then
            systemctl list-units --plain --no-legend --state=active,activating,reloading 'anosegd@*.service' \
                'anosegd-view@*.service' 'anosegd-bridge@*.service' 'anosegd-archive@*.service'
        fi
        find "$DESTDIR/etc/systemd/system" -path '*.wants/anosegd*@*' -printf '%f\n' 2>/dev/null || true
    } | awk '{print $1}' | sort -u
}

case ${1:-} in
install)
    check_target install
    if with_tensorrt; then find_cuda; fi
    make_environment
    install_package
    install_files
    if [ -n "$DESTDIR" ]; then
        say "installed into $DESTDIR; on the target run systemd-sysusers and systemd-tmpfiles --create, or reboot it"
        exit
    fi
    tell_system
    say "installed $("$venv/bin/python" -m pip show anoseg-edge | sed -n 's/^Version: //p') into $PREFIX"
    for station in $(stations); do say "$station still runs the version before: systemctl restart $station"; done
    say "next: cp $config/example.yaml $config/line.yaml, edit it, then systemctl enable --now anosegd@line"
    ;;
uninstall)
    check_target uninstall
    left=$(stations)
    [ -z "$left" ] || fail "stations are still enabled or running" "run: systemctl disable --now $(echo $left)"
    rm -rf "$venv"
    for unit in $UNITS; do rm -f "$lib/systemd/system/$unit"; done
    rm -f "$lib/sysusers.d/anoseg.conf" "$lib/tmpfiles.d/anoseg.conf"
    for command in $COMMANDS; do rm -f "$bin/$command"; done
    if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    say "removed. Kept: configurations in $config, bundles in $store, journals in"
    say "$DESTDIR/var/lib/anoseg/STATION, and the user anoseg, who owns them"
    ;;
*)
    fail "usage: install.sh install|uninstall"
    ;;
esac
