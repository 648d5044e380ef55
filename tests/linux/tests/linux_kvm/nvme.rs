//! The model of an NVMe controller, driven by the stock `nvme` driver of each kernel over PCI; and what one has written, read by a
//! process of the other VM by the engine's driver, which drives the same model over the same file.

use std::time::Duration;

use anyhow::{Result, ensure};
use byway_linux_tests::nested::Host;

/// How long all of it may take a VM.
const LIMIT: Duration = Duration::from_secs(90);

/// What a VM does with its controllers. To start a program is dear there, so all of it is one script. It prints the sum of the first two
/// MiB.
const SCRIPT: &str = r#"
set -eu
say() { echo "$*" >&2; exit 1; }
# find SERIAL: sets `name` to the namespace of the controller that has it, which takes its time. The first to be found is the first to be
# ready, whichever that is.
find() {
    tries=0
    while :; do
        for controller in /sys/class/nvme/nvme*; do
            name=${controller##*/}n1
            serial=
            read -r serial 2>/dev/null <$controller/serial || true
            [ "$serial" != "$1" ] || [ ! -e /dev/$name ] || return 0
        done
        tries=$((tries + 1))
        [ $tries -lt 100 ] || say "no controller $1"
        usleep 100000
    done
}
# sum FIRST COUNT: of so many blocks of 64 KiB, past the cache.
sum() { dd if=/dev/$name bs=64k skip=$1 count=$2 iflag=direct 2>/dev/null | sha256sum; }

find byway-nvme-0
cd /sys/class/nvme/${name%n1}
read -r model <model
read -r state <state
read -r kind <cntrltype
read -r size <$name/size
[ "$model, $state, $kind, $size" = "Byway NVMe model, live, io, 32768" ] || say "$model, $state, $kind, $size"

# By commands of one block, of a page, of all that fits into one and of more; from both CPUs.
dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null
data=$(sha256sum </tmp/data)
taskset 1 dd if=/tmp/data of=/dev/$name bs=1M oflag=direct 2>/dev/null &
taskset 2 dd if=/tmp/data of=/dev/$name bs=4k seek=1024 count=64 oflag=direct 2>/dev/null
dd if=/tmp/data of=/dev/$name bs=512 seek=16384 count=32 oflag=direct 2>/dev/null
wait $!
# By the cache, and made to last.
dd if=/tmp/data of=/dev/$name bs=64k seek=160 conv=fsync 2>/dev/null
[ "$(sum 0 32)" = "$data" ] || say "reads other bytes than it wrote"
[ "$(sum 160 32)" = "$data" ] || say "reads other bytes than it wrote by the cache"
# By PRPs alone, and by SGLs wherever there can be some.
threshold=/sys/module/nvme/parameters/sgl_threshold
read -r usual <$threshold
for bytes in 0 1; do
    echo $bytes >$threshold
    dd if=/dev/zero of=/dev/$name bs=1M seek=14 count=2 oflag=direct 2>/dev/null
    dd if=/tmp/data of=/dev/$name bs=1M seek=14 oflag=direct 2>/dev/null
    [ "$(sum 224 32)" = "$data" ] || say "reads other bytes with SGLs from $bytes bytes on"
done
echo $usual >$threshold

# Deallocate; and write zeroes, which is what a loop device has blocks discarded by.
blkdiscard -o 131072 -l 65536 /dev/$name
losetup /dev/loop0 /dev/$name
blkdiscard -o 262144 -l 65536 /dev/loop0
losetup -d /dev/loop0
zeros=$(dd if=/dev/zero bs=64k count=1 2>/dev/null | sha256sum)
[ "$(sum 2 1)" = "$zeros" ] || say "not deallocated"
[ "$(sum 4 1)" = "$zeros" ] || say "no zeros written"
[ "$(sum 3 1)" != "$zeros" ] || say "more zeros written than were asked for"
before=$(sum 0 32)
for queue in 0 1 2; do
    grep -q "[1-9].*${name%n1}q$queue\$" /proc/interrupts || say "no interrupts of queue $queue"
done

# Begun anew by its driver, and by another probe of that.
echo 1 >reset_controller
[ "$(sum 0 32)" = "$before" ] || say "reads other bytes after a reset"
cd /sys/bus/pci/drivers/nvme
echo 0000:00:01.0 >unbind
[ ! -e /dev/$name ] || say "still there without a driver"
echo 0000:00:01.0 >bind
find byway-nvme-0
[ "$(sum 0 32)" = "$before" ] || say "reads other bytes after its driver has gone and come"

find byway-nvme-1
read -r ro </sys/block/$name/ro
read -r word </dev/$name
[ "$ro $word" = "1 kept!" ] || say "the one that is read-only: $ro $word"
! dd if=/tmp/data of=/dev/$name bs=512 count=1 oflag=direct 2>/dev/null || say "the one that is read-only was written"

! dmesg | grep -i 'nvme.*\(timeout\|fail\|error\|invalid\|unable\)' || exit 1
! dmesg | grep -i '\(pci\|mmconfig\|ecam\).*\(fail\|error\|conflict\|not reserved\|not using\|no space\)' || exit 1
echo "$before"
"#;

/// Both drivers do their work; what alice's has written is in the file, for others too.
pub fn drive(host: &mut Host) -> Result<()> {
    for name in ["alice", "bob"] {
        let said = host.ask(name, SCRIPT, LIMIT)?;
        ensure!(said.status == 0, "{name}: {}", said.text);
        let written = said.text.trim_end();
        let kept = host.shell().ok(&format!(
            "dd if=/vms/{name}.nvme bs=64k count=32 2>/dev/null | sha256sum"
        ))?;
        ensure!(
            kept == written,
            "{name}: {written} was written, {kept} is there"
        );
        if name == "alice" {
            let read = host.ok(
                "bob",
                "byway-cat blocks nvme-of-alice --bytes 2M -o /tmp/blocks >&2; sha256sum </tmp/blocks",
            )?;
            ensure!(read.ends_with(written), "bob reads {read}, not {written}");
        }
    }
    Ok(())
}
