//! Blocks of a device that the engine drives, opened and read by a process of a Linux guest.

use anyhow::{Context, Result, ensure};
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab::{self, step};

use crate::scenario::{check, sha256};

/// Bytes of the disk.
const DISK: usize = 6 << 20;
/// What is granted of it: from here on, so many.
const FIRST: usize = 1 << 20;
const GRANTED: usize = 4 << 20;

fn pattern() -> Vec<u8> {
    (0..DISK).map(|i| (i / 512 * 31 + i % 509) as u8).collect()
}

#[test]
fn a_process_of_6_12_reads_the_blocks_that_were_granted_and_no_others() {
    lab::test("endpoints", |lab| {
        let disk = lab.scratch().join("disk.img");
        std::fs::write(&disk, pattern())?;
        let config = format!(
            r#"
[[domain]]
name = "alice"
[[endpoint]]
name = "disk"
kind = "file"
path = "{}"
[[endpoint.grant]]
domain = "alice"
first = "{FIRST}"
bytes = "{GRANTED}"
read = true
"#,
            disk.display()
        );
        let mut engine = lab.engine(&config)?;
        let [mut alice] = lab.boot([lab.config("alice", Kernel::V6_12, &engine)])?;
        step("all that was granted", || -> Result<()> {
            let before = engine.counter("alice", "bytes")?;
            alice.ok("byway-cat blocks disk -o /tmp/blocks")?;
            ensure!(
                engine.counter("alice", "bytes")? - before >= GRANTED as u64,
                "the engine moved less"
            );
            let read = sha256(&mut alice, "blocks")?;
            let expected = lab.scratch().join("expected");
            std::fs::write(&expected, &pattern()[FIRST..FIRST + GRANTED])?;
            let sum = std::process::Command::new("sha256sum")
                .arg(&expected)
                .output()?;
            let sum = String::from_utf8(sum.stdout)?;
            let sum = sum.split_whitespace().next().context("no sum")?;
            ensure!(read == sum, "alice read {read}, {sum} are there");
            Ok(())
        })?;
        step("refusals", || -> Result<()> {
            alice.refused("byway-cat blocks tape", "No such file or directory")?;
            // Past the end, and no whole block.
            alice.refused("byway-cat blocks disk --offset 4M --bytes 4K", "0x4")?;
            alice.refused("byway-cat blocks disk --bytes 100", "0x")?;
            Ok(())
        })?;
        check(&mut engine, [&mut alice])
    });
}
