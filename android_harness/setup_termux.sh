#!/bin/sh
# Sets up Termux for adapting: run it inside Termux.
#
#   sh setup_termux.sh           install what is missing
#   sh setup_termux.sh --check   only say what is missing
#
# Nothing is asked, and where nothing is missing nothing is done. stdout: one JSON object, as python_facts.py beside
# this file prints it, {} where there is no Python; stderr: the conversation. Exit codes: 0 everything is there,
# 2 usage, 7 something is missing or this is not Termux.

# openssh: for reaching a Termux that adb may not enter (run-as). Neither runtime has wheels for Termux, and NumPy and
# Pillow do not build there by themselves, so these come from Termux; flatbuffers and tflite are pure Python.
PACKAGES="python python-pip python-numpy python-pillow python-tflite-runtime openssh"
MODULES="flatbuffers>=23.5.26 tflite>=2.18.0,<3"

say() {
    echo "$*" >&2
}

case ${1-} in
    '' | --check) ;;
    *)
        say "usage: sh setup_termux.sh [--check]"
        exit 2
        ;;
esac

case ${PREFIX-} in
    */com.termux/files/usr) ;;
    *)
        say "error: this is not Termux: PREFIX is '${PREFIX-}', not the folder that Termux sets"
        exit 7
        ;;
esac

installed() {
    dpkg -s "$1" 2>/dev/null | grep -q '^Status: .* installed$'
}

missing_packages() {
    for package in $PACKAGES; do
        installed "$package" || printf '%s ' "$package"
    done
}

missing_modules() {
    for module in $MODULES; do
        # The name is what comes before the first version.
        python -c 'import importlib.metadata, sys; importlib.metadata.version(sys.argv[1])' "${module%%[<>=]*}" \
            >/dev/null 2>&1 || printf '%s ' "$module"
    done
}

# pkg without a question: settings files that were changed stay as they are.
unasked() {
    action=$1
    shift
    DEBIAN_FRONTEND=noninteractive pkg "$action" -y -o Dpkg::Options::=--force-confold "$@" >&2 </dev/null
}

packages=$(missing_packages)
if [ "${1-}" != --check ]; then
    if [ -n "$packages" ]; then
        say "installing $packages"
        # Termux is a rolling release: a package built for another Python than the installed one does not load, so
        # what is there goes along.
        # shellcheck disable=SC2086
        if ! { unasked upgrade && unasked install $packages; }; then
            say "error: pkg could not install $packages"
        fi
        packages=$(missing_packages)
    fi
    modules=$(missing_modules)
    if [ -n "$modules" ] && installed python-pip; then
        say "installing $modules"
        # shellcheck disable=SC2086
        python -m pip install --disable-pip-version-check $modules >&2 </dev/null ||
            say "error: pip could not install $modules"
    fi
fi
modules=$(missing_modules)
if [ -n "$packages" ]; then
    say "missing: $packages (pkg install $packages)"
fi
if [ -n "$modules" ]; then
    say "missing: $modules (pip install)"
fi
if command -v python >/dev/null 2>&1; then
    python "$(dirname "$0")/python_facts.py" "$HOME" || exit 7
else
    echo '{}'
fi
[ -z "$packages$modules" ] || exit 7
