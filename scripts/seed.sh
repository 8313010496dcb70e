#!/bin/bash
# Makes the disk by which a machine without a cloud gets a cloud's metadata.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

case ${1:---help} in
--help | -h)
    cat <<END
usage: scripts/seed.sh FILE HOSTNAME PASSWORD [PUBLIC-KEY-FILE]...

Makes FILE, a small file system labelled CIDATA as cloud-init's NoCloud wants it:
at its first boot the cloud image takes from it its name, root's password on the
console, and the ssh keys that may log in as root.
END
    exit
    ;;
esac
[ $# -ge 3 ] || die "see --help"
file=$1 name=$2 password=$3
shift 3
PATH=$PATH:/usr/sbin:/sbin
rm -f "$file"
mkdir -p "$(dirname "$file")"
truncate -s 1440K "$file"
mkfs.vfat -n CIDATA "$file" >/dev/null
printf 'instance-id: seed-%s\nlocal-hostname: %s\n' "$(date +%s)" "$name" | mcopy -i "$file" - ::/meta-data
{
    printf "#cloud-config\npassword: '%s'\nssh_authorized_keys:\n" "${password//\'/\'\'}"
    # In YAML's single quotes only these themselves are doubled.
    [ $# = 0 ] || sed "s/'/''/g; s/.*/  - '&'/" "$@"
} | mcopy -i "$file" - ::/user-data
