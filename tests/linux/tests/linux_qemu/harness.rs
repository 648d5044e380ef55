//! The harness itself: that it sees what it has to see.

use std::time::Duration;

use byway_linux_tests::guest::{Config, Guest};
use byway_linux_tests::images::Kernel;
use byway_linux_tests::initramfs::Module;
use byway_linux_tests::lab;
use byway_linux_tests::qemu::{Emulator, Machine};

fn plain(kernel: Kernel) -> Config {
    Config {
        name: "guest".into(),
        kernel,
        module: Module::None,
        machine: Machine::default(),
        files: Vec::new(),
        device: None,
    }
}

/// Processes whose parents are gone end while commands come in: none of a command's bytes is lost.
fn many_ends(guest: &mut Guest) -> anyhow::Result<()> {
    let ending =
        guest.spawn("while [ ! -e /tmp/enough ]; do (usleep 1000 &); usleep 3000; done")?;
    for number in 0..30 {
        let words = format!("number {number}, and so long that it takes a while to come in");
        assert_eq!(guest.ok(&format!("echo {words}"))?, words);
    }
    guest.ok("touch /tmp/enough")?;
    guest.wait_ok(&ending, Duration::from_secs(20))?;
    Ok(())
}

#[test]
fn a_warning_of_the_kernel_fails_a_test_and_a_hanging_command_is_killed() {
    lab::test("harness", |lab| {
        let [mut guest] = lab.boot([plain(Kernel::V6_12)])?;
        assert!(guest.release().starts_with("6.12."));
        guest.check()?;
        let slow = guest.run_within("sleep 60", Duration::from_secs(1))?;
        assert_eq!(slow.status, 137, "{}", slow.text);
        let job = guest.spawn("echo it\\'s; sleep 1; exit 3")?;
        guest.wait_for(&job, "it's", Duration::from_secs(10))?;
        assert_eq!(guest.wait(&job, Duration::from_secs(20))?.status, 3);
        many_ends(&mut guest)?;
        guest.ok("echo 'WARNING: CPU: 0 made up by a test' >/dev/kmsg")?;
        assert!(guest.check().is_err());
        Ok(())
    });
}

/// A kernel that finds nothing to run panics, which is a reset.
#[test]
fn a_guest_that_is_reset_before_its_first_program_is_started_again_and_its_last_words_are_told() {
    lab::test("harness-reset", |lab| {
        for (emulator, boots) in [(Emulator::Host, 3), (Emulator::Recent, 1)] {
            let mut config = plain(Kernel::V6_1);
            config.machine.emulator = emulator;
            config.machine.cmdline = "rdinit=/nothing".into();
            let told = format!("{:?}", lab.boot([config]).unwrap_err());
            for words in [
                format!("boots of guest: {boots}\n"),
                "its QEMU ended (exit status: 0)".into(),
                "Unable to mount root fs".into(),
            ] {
                assert!(told.contains(&words), "{words:?} is not in {told}");
            }
        }
        Ok(())
    });
}

#[test]
fn why_qemu_does_not_start_is_told() {
    lab::test("harness-start", |lab| {
        let mut config = plain(Kernel::V6_1);
        config.machine.extra = vec!["no-such-device".into()];
        let told = format!("{:?}", lab.boot([config]).unwrap_err());
        assert!(
            told.contains("'no-such-device' is not a valid device"),
            "{told}"
        );
        Ok(())
    });
}
