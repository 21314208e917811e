#!/usr/bin/env bash
# Builds the control plane that tests run on, from the Go modules pinned in go.mod, into .tools/bin; and cronjob/, a
# module of its own, which tells when Kubernetes' CronJobs start.
#
#   testbed/tools/build.sh [BINARY...]      all of them when none is named
#
# A binary is built when it is missing or when its sources, its go.mod, go.sum or this script changed since. Several calls at once
# wait for each other. KUBEBUILDER_ASSETS, where it is set, is trusted for the binaries it holds.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$root/.tools/bin
stamps=$root/.tools/stamps
all=(etcd kube-apiserver kube-controller-manager kube-scheduler kubectl helm cronjob)
heartbeat=20

say() { printf 'tools: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

module_of() {
    case $1 in
        cronjob) echo "$here/cronjob" ;;
        *) echo "$here" ;;
    esac
}

package_of() {
    case $1 in
        cronjob) echo . ;;
        etcd) echo go.etcd.io/etcd/server/v3 ;;
        helm) echo helm.sh/helm/v3/cmd/helm ;;
        kube-apiserver | kube-controller-manager | kube-scheduler | kubectl) echo "k8s.io/kubernetes/cmd/$1" ;;
        *) fail "unknown binary '$1': choose from ${all[*]}" ;;
    esac
}

# Without the version strings every client would see v0.0.0.
ldflags_of() {
    local flags="-s -w"
    if [[ $(package_of "$1") == k8s.io/kubernetes/* ]]; then
        local version at=k8s.io/component-base/version
        version=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' "$here/go.mod")
        IFS=. read -r major minor _ <<<"${version#v}"
        flags+=" -X $at.gitVersion=$version -X $at.gitMajor=$major -X $at.gitMinor=$minor"
    fi
    if [[ $1 == cronjob ]]; then
        flags+=" -X main.tzdata=$(sed -n 's/^DATA=//p' "$(go env GOROOT)/lib/time/update.bash")"
    fi
    echo "$flags"
}

# A name for all that a binary is made from.
wanted() {
    find "$(module_of "$1")" -maxdepth 1 \( -name go.mod -o -name go.sum -o -name '*.go' \) -print0 | sort --zero-terminated |
        xargs --null cat "$here/build.sh" | sha256sum | cut --delimiter=' ' --fields=1
}

given_by_assets() {
    case $1 in
        etcd | kube-apiserver | kubectl) [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$1 ]] ;;
        *) return 1 ;;
    esac
}

up_to_date() { [[ -x $out/$1 && -f $stamps/$1 && $(<"$stamps/$1") == "$(wanted "$1")" ]]; }

build() {
    local name=$1 started=$SECONDS log pid beat
    log=$(mktemp "$root/.tools/$name.log.XXXXXX")
    say "$name: building"
    (cd "$(module_of "$name")" && exec go build -trimpath -ldflags "$(ldflags_of "$name")" -o "$out/.$name.new" \
        "$(package_of "$name")") >"$log" 2>&1 &
    pid=$!
    trap 'kill "$pid" 2>/dev/null || true' INT TERM EXIT
    beat=$heartbeat
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - started >= beat)); then
            say "$name: still building, $((SECONDS - started)) s"
            beat=$((beat + heartbeat))
        fi
    done
    if ! wait "$pid"; then
        trap - INT TERM EXIT
        tail -n 30 "$log" >&2
        rm -f "$log"
        fail "$name: go build failed after $((SECONDS - started)) s"
    fi
    trap - INT TERM EXIT
    rm -f "$log"
    # Its tz database is Go's own, and not the system's.
    [[ $name != cronjob ]] || cp "$(go env GOROOT)/lib/time/zoneinfo.zip" "$out/zoneinfo.zip"
    # A rename, since the binary it replaces may be running.
    mv "$out/.$name.new" "$out/$name"
    wanted "$name" >"$stamps/$name"
    say "$name: built in $((SECONDS - started)) s"
}

names=("$@")
((${#names[@]})) || names=("${all[@]}")
for name in "${names[@]}"; do package_of "$name" >/dev/null; done

mkdir -p "$out" "$stamps"

exec 9>"$root/.tools/build.lock"
flock --nonblock 9 || {
    say "another build is running: waiting for it"
    flock 9
}

todo=()
for name in "${names[@]}"; do
    given_by_assets "$name" || up_to_date "$name" || todo+=("$name")
done
if ((${#todo[@]} == 0)); then
    say "up to date: ${names[*]}"
    exit 0
fi

needed=$(awk '$1 == "go" { print $2; exit }' "$here/go.mod")
command -v go >/dev/null || fail "Go $needed or newer is needed to build ${todo[*]}, and no 'go' is on the PATH"

for name in "${todo[@]}"; do build "$name"; done
