//! The command line of `byway`.

use clap::{Parser, Subcommand};

use byway_vmm::exit_status::Failure;
use byway_vmm::{api, bench, daemon, demo, doctor, image, operator, ops_list, run, stress};

/// Virtual machines that exchange memory through a data-movement engine, without VM exits.
#[derive(Debug, Parser)]
#[command(
    name = "byway",
    version,
    after_help = "Exit codes: 0 done; 1 failed while running; 2 wrong usage or configuration; \
                  3 the host lacks something (see `byway doctor`)."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the VMs of a TOML file, with an embedded engine or attached to a daemon
    Run(Box<run::Args>),
    /// Tell a running `byway run --api` what to do with its VMs
    Vm(api::client::VmArgs),
    /// Make a small Linux guest from Debian's packages and a checkout
    Image(image::Args),
    /// Run an engine to which VMs of other processes attach over vhost-user
    Engine(daemon::Args),
    /// List an engine's domains and their use
    Ps(operator::PsArgs),
    /// Permit one domain to be given access to another's memory
    Link(operator::LinkArgs),
    /// Forbid it again, and revoke what was given
    Unlink(operator::UnlinkArgs),
    /// Show or change what a domain gets of an engine's workers
    Quota(operator::QuotaArgs),
    /// Tell who was given what over a domain's memory
    Audit(operator::AuditArgs),
    /// List, attach, detach and grant the block devices that an engine drives
    Endpoint(operator::EndpointArgs),
    /// Create and remove an engine's domains, and say who may attach to them
    Domain(operator::DomainArgs),
    /// Boot two VMs that exchange memory, and show and check everything that is promised
    Demo(demo::DemoArgs),
    /// Measure the project's figures side by side in one run
    Bench(bench::BenchArgs),
    /// Let hostile and busy VMs do their worst to each other, and count what must not happen
    Stress(stress::StressArgs),
    /// Say what this host offers, and what to do about what it lacks
    Doctor(doctor::Args),
    /// List the operations, and which backend of this build and host carries each out
    Ops(ops_list::Args),
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// Whatever the command fails with.
    pub fn execute(self) -> Result<(), Failure> {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Vm(args) => api::client::run(&args),
            Command::Image(args) => image::run(&args),
            Command::Engine(args) => daemon::run(&args),
            Command::Ps(args) => operator::ps(&args),
            Command::Link(args) => operator::link(&args),
            Command::Unlink(args) => operator::unlink(&args),
            Command::Quota(args) => operator::quota(&args),
            Command::Audit(args) => operator::audit(&args),
            Command::Endpoint(args) => operator::endpoint(&args),
            Command::Domain(args) => operator::domain(&args),
            Command::Demo(args) => Ok(demo::run(&args)?),
            Command::Bench(args) => Ok(bench::run(&args)?),
            Command::Stress(args) => Ok(stress::run(&args)?),
            Command::Doctor(args) => doctor::run(&args),
            Command::Ops(args) => ops_list::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
