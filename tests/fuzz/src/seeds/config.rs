//! Files as users write them, and with the mistakes that they make.

use super::Seeds;

const TWO_VMS: &str = r#"[engine]
workers = 1
pin = [0]
spin_us = 50

[[vm]]
name = "alice"
image = "byway-guest"
memory = "64M"
cpus = 2
serial = "off"

[vm.quotas]
contexts = 4
queues = 8

[[vm]]
name = "bob"
kernel = "/boot/vmlinuz"
initrd = "initrd.img"
cmdline = "console=ttyS0"
memory = "1G"
hugepages = "hugetlb"
populate = true
device_id = 41
serial = "file:bob.log"

[[link]]
from = "alice"
to = "bob"
read = true
write = true
grant = false
max_bytes = "16M"
"#;

pub(super) fn seeds() -> Seeds {
    let vm = "[[vm]]\nname = \"a\"\nimage = \"byway-guest\"\nmemory = \"64M\"\n";
    let text = |text: String| text.into_bytes();
    vec![
        ("two-vms", text(TWO_VMS.into())),
        ("one-vm", text(vm.into())),
        ("twice", text(vm.repeat(2))),
        (
            "self-link",
            text(format!(
                "{vm}[[link]]\nfrom = \"a\"\nto = \"a\"\nread = true\n"
            )),
        ),
        ("empty", Vec::new()),
        (
            "no-kernel",
            text("[[vm]]\nname = \"a\"\nmemory = 1\n".into()),
        ),
        ("unknown-key", text(format!("{vm}colour = \"red\"\n"))),
        (
            "odd-names",
            text("[[vm]]\nname = \"\u{e4}\u{1f980}\"\nmemory = \"\"".into()),
        ),
    ]
}
