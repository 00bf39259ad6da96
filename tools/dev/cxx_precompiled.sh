#!/usr/bin/env bash
# Stands in for the C++ compiler while mmcv's operators are built. All their files include torch/types.h, which is most of
# what the compiler reads: it is compiled once, with the flags of the first file. Debug information, which nobody reads, is
# left out. GCC takes a precompiled header only where it fits, and otherwise reads the header itself; others do not.
#   REAL_CXX       the compiler, with arguments
#   PRECOMPILED    folder for the compiled header
set -euo pipefail
read -ra compiler <<<"$REAL_CXX"

flags=() source=
arguments=("$@")
for ((i = 0; i < $#; i++)); do
    case ${arguments[i]} in
        -c | -MMD) ;;
        -o | -MF) i=$((i + 1)) ;;
        *.cpp) source=${arguments[i]} ;;
        *) flags+=("${arguments[i]}") ;;
    esac
done
if [[ " $* " != *' -c '* || -z $source ]] || ! "${compiler[@]}" --version | grep -qi 'free software foundation'; then
    exec "${compiler[@]}" "$@"
fi

header=$PRECOMPILED/operators.h
(
    flock 9
    [[ -e $header ]] && exit
    echo '#include <torch/types.h>' >"$header"
    "${compiler[@]}" "${flags[@]}" -g0 -x c++-header -o "$header.gch" "$header" ||
        { rm -f "$header.gch" && : >"$header"; }
) 9>"$PRECOMPILED/lock"
exec "${compiler[@]}" -include "$header" "$@" -g0
