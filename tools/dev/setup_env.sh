#!/usr/bin/env bash
# Builds an environment from pinned requirements. Does nothing while they are unchanged; an interrupted run is simply repeated.
#   setup_env.sh             .venv from requirements.txt
#   setup_env.sh upstream    .venv-upstream from requirements/upstream.txt
#   PYTHON       interpreter of a new environment (default: the first of python3.11 ... python3 that is recent enough)
#   FORCE_CUDA   1 builds the CUDA operators of mmcv on a machine without a GPU, such as a cluster's login node
#   MAX_JOBS     parallel compiler processes (default: the cores, at most one per 2 GiB of free memory)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

case ${1:-} in
    '')
        VENV=.venv REQUIREMENTS=requirements.txt TARGET=setup NEXT='make demo, make test'
        PYTHONS='Python 3.11 or later' OLDEST='3, 11' NEWEST='4, 0' OPTIONAL=requirements/optional.txt
        ;;
    upstream)
        VENV=.venv-upstream REQUIREMENTS=requirements/upstream.txt TARGET=setup-upstream NEXT='make test-upstream'
        PYTHONS='Python 3.11 or 3.12' OLDEST='3, 11' NEWEST='3, 12' OPTIONAL=
        ;;
    *)
        printf 'usage: %s [upstream]\n' "$0" >&2
        exit 2
        ;;
esac
STAMP=$VENV/setup.stamp
MMCV_LOG=$VENV/mmcv_build.log
INPUTS=("$REQUIREMENTS" requirements/build.txt requirements/dev.txt ${OPTIONAL:+"$OPTIONAL"} setup.py)
ANEW="rm -rf $VENV && make $TARGET"
OPENMMLAB='^(onedl-)?(mmengine|mmcv|mmsegmentation|mmpretrain)=='

step() { printf '\n==> [%s] %s\n' "$1" "$2"; }
note() { printf '    %s\n' "$@"; }
die() {
    printf '\nsetup failed: %s\n' "$1" >&2
    shift
    if (($#)); then printf '    %s\n' "$@" >&2; fi
    exit 1
}

fits() { "$1" -c "import sys; sys.exit(not ($OLDEST) <= sys.version_info[:2] <= ($NEWEST))"; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# The pins of a requirements file, without comments, whose names match an extended regular expression.
pins() { grep -oE '^[A-Za-z0-9][^# ]*' "$1" | grep -E "$2"; }
pins_except() { grep -oE '^[A-Za-z0-9][^# ]*' "$1" | grep -vE "$2"; }
# The pin of one package of this environment, named as upstream names it.
pin_of() { pins "$REQUIREMENTS" "^(onedl-)?$1=="; }

# An environment belongs to its folder (the editable install names it), to its requirements and to its kind of operators.
fingerprint() {
    pwd -P
    cksum "${INPUTS[@]}"
}

up_to_date() {
    [[ -x $VENV/bin/python && -f $STAMP ]] || return 1
    [[ "$(sed '$d' "$STAMP")" == "$(fingerprint)" ]] || return 1
    [[ ${FORCE_CUDA:-0} != 1 || "$(tail -n 1 "$STAMP")" == 'operators cuda' ]]
}

choose_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON is not a command." 'Name an installed interpreter.'
        fits "$PYTHON" || die "PYTHON=$PYTHON is Python $(version_of "$PYTHON")." \
            "$PYTHONS is needed: make $TARGET PYTHON=python3.11"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if command -v "$candidate" >/dev/null && fits "$candidate"; then
            PYTHON=$candidate
            return
        fi
    done
    die "no $PYTHONS on PATH." \
        'Install one (Debian 12: apt-get install python3 python3-venv python3-dev)' \
        "or name it: make $TARGET PYTHON=/path/to/python3.11"
}

check_machine() {
    local version
    choose_python
    version=$(version_of "$PYTHON")
    note "interpreter: $PYTHON ($version)"
    if [[ -x $VENV/bin/python && "$(version_of $VENV/bin/python)" != "$version" ]]; then
        die "$VENV has Python $(version_of $VENV/bin/python), $PYTHON is $version." \
            "To build it anew: $ANEW PYTHON=$PYTHON" \
            "To keep it: make $TARGET PYTHON=python$(version_of $VENV/bin/python)"
    fi
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || die "$PYTHON cannot make virtual environments." \
        "Install its venv module (Debian, Ubuntu: apt-get install python$version-venv)"
    "$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.isfile(sysconfig.get_path("include") + "/Python.h"))' ||
        die "the headers of $PYTHON (Python.h) are missing: the operators of mmcv cannot be compiled." \
            "Install them (Debian, Ubuntu: apt-get install python$version-dev)"
    command -v "${CXX:-c++}" >/dev/null || die "no C++ compiler (${CXX:-c++}): the operators of mmcv cannot be compiled." \
        'Install one (Debian, Ubuntu: apt-get install gcc g++) or name it in CXX'
}

in_venv() { "$VENV/bin/python" "$@"; }

pip_install() {
    in_venv -m pip --disable-pip-version-check install "$@" || die "pip install $*" \
        "The lines above say why. After a network error or a full disk, run make $TARGET again: it goes on where it stopped." \
        'Behind a package mirror set PIP_INDEX_URL (and PIP_CERT) before.'
}

make_venv() {
    # A run that was interrupted here leaves a folder without a working pip: venv repairs it in place.
    if ! [[ -x $VENV/bin/python ]] || ! in_venv -m pip --version >/dev/null 2>&1; then
        "$PYTHON" -m venv $VENV || die "$PYTHON -m venv $VENV" "Remove the folder $VENV and run make $TARGET again."
    fi
    # shellcheck disable=SC2046  # one word per requirement is meant
    pip_install --quiet $(pins requirements/build.txt .)
}

# Prints cuda or cpu: the kind of operators this machine gets.
operators_wanted() {
    in_venv - <<'PY'
import os

import torch

forced = os.environ.get('FORCE_CUDA') == '1'
if forced or torch.cuda.is_available():
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is not None and os.access(os.path.join(CUDA_HOME, 'bin', 'nvcc'), os.X_OK):
        print('cuda')
    else:
        print('forced-without-nvcc' if forced else 'gpu-without-nvcc')
else:
    print('cpu')
PY
}

torch_cuda() { in_venv -c 'import torch; print(torch.version.cuda)'; }

compile_jobs() {
    local jobs cores
    cores=$(nproc)
    jobs=$(awk '/^MemAvailable:/ { print int($2 / 2097152) }' /proc/meminfo)
    if ((jobs > cores)); then jobs=$cores; fi
    echo $((jobs > 0 ? jobs : 1))
}

# Shows the compiler's progress instead of its commands, which go to the log, and how long the rest will take by the first files.
progress_of_ninja() { # LOG
    local line compiled files begin=
    while IFS= read -r line; do
        printf '%s\n' "$line" >&3
        [[ $line =~ \[([0-9]+)/([0-9]+)\] ]] || continue
        compiled=${BASH_REMATCH[1]} files=${BASH_REMATCH[2]} begin=${begin:-$SECONDS}
        if ((compiled == 9)); then
            note "this machine needs about $(((SECONDS - begin) * (files - 9) / 8)) s more for the other $((files - 9)) files"
        elif ((compiled % 10 == 0 || compiled == files)); then
            note "compiled $compiled of $files files"
        fi
    done 3>"$1"
}

install_mmcv() { # KIND, further pip arguments
    local kind=$1 pin precompiled=$PWD/$VENV/precompiled
    shift
    pin=$(pin_of mmcv)
    rm -rf "$precompiled"
    mkdir "$precompiled"
    cp tools/dev/cxx_precompiled.sh "$precompiled/c++"
    export REAL_CXX=${CXX:-$(command -v c++)} PRECOMPILED=$precompiled CXX=c++ PATH=$precompiled:$PATH
    export MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(compile_jobs)}
    if [[ $kind == cuda ]]; then
        export FORCE_CUDA=1
    else
        # mmcv builds for CUDA as soon as it sees a GPU, and fails without nvcc.
        export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
    fi
    in_venv -m pip --disable-pip-version-check install --verbose --no-deps --no-build-isolation "$@" "$pin" 2>&1 |
        progress_of_ninja "$MMCV_LOG" || {
        grep -E 'error|Error|Killed' "$MMCV_LOG" | tail -n 15 >&2 || tail -n 15 "$MMCV_LOG" >&2
        die "$pin did not build; the whole log is $MMCV_LOG." \
            "Compiler killed: too little memory, try MAX_JOBS=1 make $TARGET" \
            'CUDA headers missing or of another version: install the CUDA toolkit that torch was built with, set CUDA_HOME'
    }
    rm -rf "$precompiled"
}

operators_work() { # KIND
    if [[ $1 == cuda ]]; then
        in_venv tools/dev/check_operators.py --cuda
    else
        in_venv tools/dev/check_operators.py
    fi
}

setup_mmcv() {
    local kind wheel
    kind=$(operators_wanted) || die 'torch does not import.' "To build the environment anew: $ANEW"
    case $kind in
        forced-without-nvcc)
            die 'FORCE_CUDA=1, but there is no nvcc.' \
                "Install the CUDA toolkit $(torch_cuda) and put nvcc on PATH or set CUDA_HOME."
            ;;
        gpu-without-nvcc)
            kind=cpu
            note 'This machine has a GPU but no nvcc: the operators are built for the CPU only. Everything but the' \
                'deformable head still runs on the GPU. To have them, install the CUDA toolkit' \
                "$(torch_cuda), set CUDA_HOME and run: make $TARGET FORCE_CUDA=1"
            ;;
    esac
    note "kind: $kind; progress is shown while it compiles, the log is $MMCV_LOG"
    (install_mmcv "$kind")
    if ! operators_work "$kind"; then
        # pip keeps the wheel it once built, and does not know with which torch or without which compiler that was.
        note 'The operators of this mmcv build do not work here (reason above): deleting the cached wheel, compiling anew.'
        wheel=$(pin_of mmcv | sed 's/==.*//; s/-/_/g')
        in_venv -m pip cache remove "$wheel" || note 'pip has no cache to delete from'
        (install_mmcv "$kind" --force-reinstall)
        operators_work "$kind" || die 'mmcv.ops does not work (reason above), also after compiling it anew.' \
            "Look into $MMCV_LOG. Was mmcv compiled by this compiler, against this torch? To start from nothing:" \
            "pip cache purge && $ANEW"
    fi
    OPERATORS=$kind
}

remove_other_opencv() {
    # Two OpenCV distributions share the folder cv2: removing one breaks the other, so both go and the pinned one returns.
    if in_venv -m pip show --quiet opencv-python >/dev/null 2>&1; then
        in_venv -m pip uninstall --quiet --yes opencv-python opencv-python-headless
    fi
}

verify() {
    local broken
    in_venv -c 'import mmcv.ops, mmengine, mmpretrain, mmseg, mmvmt, torchvision' ||
        die 'an installed package does not import (reason above).' "To build the environment anew: $ANEW"
    # The headless OpenCV stands in for opencv-python, which two packages ask for by name; timm is used without downloads.
    broken=$(in_venv -m pip check | grep -vE 'requires (opencv-python|huggingface-hub), which is not installed|^No broken' || true)
    [[ -z $broken ]] || die "the pins in $REQUIREMENTS contradict each other:" "$broken" 'Correct the pins.'
}

if up_to_date; then
    exit 0
fi
rm -f "$STAMP"

step 1/6 'checking this machine'
check_machine
step 2/6 "virtual environment $VENV and build tools (half a minute)"
make_venv
step 3/6 "$(pin_of torch) and $(pin_of torchvision) (1 to 5 minutes, about 3 GB)"
# pip shows its progress while it downloads, and is silent when everything is there.
verbosity=()
if in_venv -m pip freeze | grep -xF "$(pin_of torch)" >/dev/null; then verbosity=(--quiet); fi
# shellcheck disable=SC2046
pip_install ${verbosity[@]+"${verbosity[@]}"} --constraint "$REQUIREMENTS" $(pin_of torch) $(pin_of torchvision)
step 4/6 'libraries (half a minute)'
remove_other_opencv
# shellcheck disable=SC2046
pip_install --quiet --constraint "$REQUIREMENTS" $(pins_except "$REQUIREMENTS" "^(torch|torchvision)==|$OPENMMLAB") \
    $(pins_except requirements/dev.txt '^timm==') ${OPTIONAL:+$(pins "$OPTIONAL" .)}
step 5/6 "$(pin_of mmcv) with compiled operators (1 to 8 minutes on 2 cores, seconds once pip has the wheel)"
# shellcheck disable=SC2046
pip_install --quiet --no-deps $(pin_of mmengine)
setup_mmcv
step 6/6 'the other OpenMMLab packages and mmvmt itself (half a minute)'
# shellcheck disable=SC2046
pip_install --quiet --no-deps --no-build-isolation \
    $(pins "$REQUIREMENTS" "$OPENMMLAB" | grep -vE '^(onedl-)?(mmengine|mmcv)==') $(pins requirements/dev.txt '^timm==')
# setuptools warns on every editable install that it is one.
PYTHONWARNINGS=ignore pip_install --quiet --no-deps --no-build-isolation --editable .
verify

{
    fingerprint
    echo "operators $OPERATORS"
} >"$STAMP"
printf '\nready: source %s/bin/activate, or %s\n' $VENV "$NEXT"
