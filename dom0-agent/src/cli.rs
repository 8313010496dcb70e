//! The command line of `overcast`: what `--help`, the completions and the manual page are made from.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Control guests of an Overcast machine from its Dom0
#[derive(Parser, Debug)]
#[command(
    name = "overcast",
    bin_name = "overcast",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong command line, 3 no such domain or node, \
                  4 no right or no Dom0, 5 refused by the hypervisor, 6 not in time, 7 machine not fit, \
                  8 a domain's kernel, disk or network device cannot be used, \
                  9 other host refuses or is not reached, 10 given up on request."
)]
pub struct Cli {
    /// Print answers as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// List the domains
    #[command(visible_alias = "ls")]
    List {
        /// Only these, by name or number
        domains: Vec<String>,
    },
    /// Make a domain and start it
    ///
    /// What it is stands in FILE, in the syntax of xl or, if its name ends in .toml, in TOML,
    /// with the same keys; options add to that, or say it all.
    Create(CreateArgs),
    /// Connect this terminal with a domain's console; ^] leaves
    Console {
        /// Name or number
        domain: String,
        /// Only print what the daemon kept of it
        #[arg(short, long)]
        log: bool,
        /// Where stdin is no terminal: leave so many seconds after its end without output
        #[arg(long, default_value_t = 2, value_name = "SECONDS")]
        linger: u64,
    },
    /// Serve and log domains' consoles, and restart domains; runs until it is ended
    Daemon,
    /// Describe the machine and its hypervisor
    Info,
    /// Check whether the machine is fit: hypervisor, CPU, memory, store, devices
    Check,
    /// Print the hypervisor's log
    Dmesg {
        /// Empty the log afterwards
        #[arg(short, long)]
        clear: bool,
    },
    /// Send debug keys to the hypervisor; it answers in its log
    DebugKeys {
        /// The keys; `h` lists them
        keys: String,
    },
    /// Save a domain in a file, which `restore` or Xen's `xl restore` takes
    Save(SaveArgs),
    /// Restore a domain from a file of `save` or Xen's `xl save`
    Restore(RestoreArgs),
    /// Move a domain to another machine while it runs
    #[command(visible_alias = "move")]
    Migrate(MigrateArgs),
    /// Take domains that other machines send
    Receive(ReceiveArgs),
    /// Make this host's keys, and say which hosts it trusts
    Init(InitArgs),
    /// Show how moves go, or went
    MigrateStatus {
        /// Only of this domain, by name
        domain: Option<String>,
        /// Again each second until all are over
        #[arg(short, long)]
        watch: bool,
    },
    /// Give a move up: the domain stays here
    MigrateCancel {
        /// The domain's name
        domain: String,
    },
    /// Take up what an `overcast migrate` left that was killed: the domain goes on here or there
    MigrateRecover {
        /// The target is dead and will never run the domain: let it go on here
        #[arg(long)]
        abandoned: bool,
    },
    /// Stop a domain's vCPUs until it is unpaused
    Pause(Domain),
    /// Let a paused domain go on
    Unpause(Domain),
    /// Ask a domain to power off
    Shutdown(ShutdownArgs),
    /// Ask a domain to start anew
    Reboot(ShutdownArgs),
    /// End a domain at once, as if its power failed
    Destroy(Domain),
    /// Give a domain another name
    Rename {
        /// Name or number
        domain: String,
        /// The new name
        name: String,
    },
    /// Set how much memory a domain has (by its balloon)
    MemSet {
        /// Name or number
        domain: String,
        /// Like 512M or 2G; MiB without a unit
        #[arg(value_parser = parse_memory)]
        memory: u64,
    },
    /// List the vCPUs of domains: where they are, and where they may run
    VcpuList {
        /// Only these, by name or number
        domains: Vec<String>,
    },
    /// Show what domains use, as it changes: CPU, memory, network, disks
    ///
    /// Keys: q ends; c, m, n, d, i and a sort by CPU, memory, network, disks, number and name, r turns
    /// that round; arrows choose a line; space looks again at once. CPU is in percent of one
    /// CPU. Network and disks are those that the hypervisor serves, bytes and requests in a second.
    Top(TopArgs),
    /// Set how many vCPUs a domain uses
    VcpuSet {
        /// Name or number
        domain: String,
        /// How many
        vcpus: u32,
    },
    /// Set on which CPUs a vCPU may run
    VcpuPin {
        /// Name or number
        domain: String,
        /// The vCPU's number, or `all`
        vcpu: String,
        /// CPUs where it may run, like 0-2,4; `all`; `-` to leave as is
        hard: String,
        /// CPUs where it should rather run
        soft: Option<String>,
    },
    /// Show or set a domain's share of the CPUs
    Sched {
        /// Name or number; all domains without it
        domain: Option<String>,
        /// Weight against others' (1 to 65535; 256 is usual)
        #[arg(short, long, requires = "domain", value_parser = clap::value_parser!(u16).range(1..))]
        weight: Option<u16>,
        /// The most it may have, percent of one CPU; 0 for no limit
        #[arg(short, long, requires = "domain")]
        cap: Option<u16>,
    },
    /// CPUs: what this machine gives, what machines have in common, where guests can move
    Cpu {
        /// What to do with them
        #[command(subcommand)]
        command: CpuCommand,
    },
    /// Read and write the store
    Store {
        /// What to do with it
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Set this machine up as its cloud says: host name, ssh keys, user data
    ///
    /// The cloud image runs this at each boot. It acts once for each instance: a copy of a disk
    /// becomes a machine of its own. Sources are disks labelled cidata (NoCloud) or config-2
    /// (ConfigDrive), and the metadata services of EC2, GCE, Azure and OpenStack.
    FirstBoot {
        /// How long to look for a metadata service, seconds
        #[arg(long, default_value_t = 30)]
        wait: u64,
        /// The metadata service's address, instead of the link-local one of clouds
        #[arg(long, value_name = "URL", hide = true)]
        metadata: Option<String>,
        /// Change the files below this directory, not this machine
        #[arg(long, default_value = "/", hide = true)]
        root: std::path::PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page
    #[command(hide = true)]
    Manual,
}

impl Command {
    /// Whether it leaves something half done, if it ends because nobody reads what it prints.
    pub fn goes_to_its_end(&self) -> bool {
        matches!(
            self,
            Self::Create(_)
                | Self::Console { .. }
                | Self::Daemon
                | Self::FirstBoot { .. }
                | Self::Save(_)
                | Self::Restore(_)
                | Self::Migrate(_)
                | Self::Receive(_)
                | Self::MigrateRecover { .. }
        )
    }
}

/// A domain to be made.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// File that says what the domain is
    #[arg(required_unless_present_all = ["name", "kernel", "memory"])]
    pub file: Option<std::path::PathBuf>,
    /// What it is called
    #[arg(short, long)]
    pub name: Option<String>,
    /// File with its kernel: as distributions ship it, or PV GRUB
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<std::path::PathBuf>,
    /// File with its initrd
    #[arg(short, long, value_name = "FILE")]
    pub initrd: Option<std::path::PathBuf>,
    /// Its kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Its memory, like 512M or 2G; MiB without a unit
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// The most memory that it may get later
    #[arg(long, value_name = "SIZE")]
    pub max_memory: Option<String>,
    /// Its vCPUs
    #[arg(short, long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// The most vCPUs that it may get later
    #[arg(long, value_name = "N")]
    pub max_vcpus: Option<u32>,
    /// CPUs where it may run, like 0-2,4
    #[arg(long)]
    pub cpus: Option<String>,
    /// The CPU that it sees: x86-64-v1 to x86-64-v4, host, or a file of `overcast cpu baseline --json`
    ///
    /// Without it, what the hypervisor's option cpu-baseline= says.
    #[arg(long, value_name = "NAME|FILE")]
    pub cpu: Option<String>,
    /// A disk: which part of the machine's disks, like vda,part=2; then, if need be, what the
    /// guest calls it, and ro: vda,part=2,xvdb,ro
    #[arg(short, long, value_name = "DISK")]
    pub disk: Vec<String>,
    /// A network device: its network, like eth0, or mac=…,network=…,rate=10Mb/s
    #[arg(long, value_name = "VIF")]
    pub vif: Vec<String>,
    /// Its UUID
    #[arg(long)]
    pub uuid: Option<String>,
    /// Leave it paused
    #[arg(short, long)]
    pub paused: bool,
    /// Connect this terminal with its console
    #[arg(short, long, conflicts_with = "paused")]
    pub console: bool,
    /// Make nothing; print what would be made
    #[arg(long)]
    pub dry_run: bool,
}

/// A domain.
#[derive(Args, Debug)]
pub struct Domain {
    /// Name or number
    pub domain: String,
}

/// How to end a domain gently.
#[derive(Args, Debug)]
pub struct ShutdownArgs {
    /// Name or number
    pub domain: String,
    /// Wait until it is done
    #[arg(short, long)]
    pub wait: bool,
    /// How long to wait, seconds
    #[arg(long, default_value_t = 120, requires = "wait")]
    pub timeout: u64,
}

/// How to show what domains use.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// Seconds from one look to the next
    #[arg(short, long, default_value_t = 2.0, value_name = "SECONDS", value_parser = parse_delay)]
    pub delay: f64,
    /// Look so often, and end
    #[arg(short = 'n', long, value_name = "N")]
    pub iterations: Option<u64>,
    /// Print lines, for scripts and files; with --json an object a line
    #[arg(short, long)]
    pub batch: bool,
    /// What to sort by
    #[arg(short, long, value_enum, default_value = "cpu")]
    pub sort: crate::top::Sort,
    /// The other way round
    #[arg(short, long)]
    pub reverse: bool,
}

/// What to do with CPUs.
#[derive(Subcommand, Debug)]
pub enum CpuCommand {
    /// Show this machine's CPU, what guests see of it, and how the rest is hidden
    ///
    /// With --json it prints the file that `baseline` and `compare` read.
    Dump,
    /// Show the CPU that a domain sees, and how what the machine has beside is hidden from it
    Show {
        /// Name or number
        domain: String,
    },
    /// Find the best CPU that all machines can give, from their files
    ///
    /// With --json it prints a file that describes this CPU.
    Baseline {
        /// Files of `overcast cpu dump --json`; `-` is the standard input
        #[arg(required = true)]
        files: Vec<std::path::PathBuf>,
    },
    /// Compare two machines, and say whether a guest can move from the first to the second
    ///
    /// Exit status 7 if it cannot.
    Compare {
        /// File of the machine where the guest is
        from: std::path::PathBuf,
        /// File of the machine to which it would come
        to: std::path::PathBuf,
    },
    /// Explain a feature: where it is told of, what it needs, which levels have it, how it is hidden
    Explain {
        /// Its name, as here or in /proc/cpuinfo
        flag: String,
    },
}

/// How to save a domain.
#[derive(Args, Debug)]
pub struct SaveArgs {
    /// Name or number
    pub domain: String,
    /// Where to
    pub file: std::path::PathBuf,
    /// Let the domain go on afterwards
    #[arg(short, long)]
    pub checkpoint: bool,
    /// How long the guest may take to suspend, seconds
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
    /// How its pages are taken, for those who compare
    #[arg(long, value_enum, default_value = "fast", hide = true)]
    pub channel: crate::stream::save::Channel,
}

/// How to restore a domain.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The file
    pub file: std::path::PathBuf,
    /// Leave it paused
    #[arg(short, long)]
    pub paused: bool,
    /// Give it another name than it had
    #[arg(long)]
    pub name: Option<String>,
    /// Restore it even if this CPU lacks features that it was shown
    #[arg(long)]
    pub force_cpu: bool,
}

/// How to move a domain.
#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// Name or number
    pub domain: String,
    /// Where to: HOST or HOST:PORT, where `overcast receive` runs
    pub host: String,
    /// Only ask whether the other host would take it
    #[arg(long)]
    pub dry_run: bool,
    /// Move it even if the other CPU lacks features that it was shown or could see
    ///
    /// Programs that use them end there by an illegal instruction.
    #[arg(long)]
    pub force_cpu: bool,
    /// Its disks come along, for hosts that do not see the same ones
    ///
    /// They are copied while it writes them, onto disks that the other host calls the same and that are as
    /// large; what they held is lost. Read-only disks are not copied, and have to be there.
    #[arg(long)]
    pub with_disks: bool,
    /// Suspend it first, then send it
    #[arg(long)]
    pub offline: bool,
    /// Its name there
    #[arg(long)]
    pub name: Option<String>,
    /// How what is sent is packed
    #[arg(long, value_enum, default_value = "none")]
    pub compress: crate::migrate::wire::Compression,
    /// How its pages are taken, for those who compare
    #[arg(long, value_enum, default_value = "fast", hide = true)]
    pub channel: crate::stream::save::Channel,
    /// Connections for what is sent, each with a thread that packs and encrypts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::migrate::lanes::MOST)))]
    pub streams: u32,
    /// KiB in a second at most, while it runs (like 50M)
    #[arg(long, value_parser = parse_memory)]
    pub bandwidth: Option<u64>,
    /// How long it may be down, milliseconds: sets when it is suspended
    #[arg(long, default_value_t = 300)]
    pub downtime: u64,
    /// How long it may all take, seconds; 0 for no limit
    #[arg(long, default_value_t = 0)]
    pub timeout: u64,
    /// What to do at the timeout
    #[arg(long, value_enum, default_value = "abort")]
    pub on_timeout: OnTimeout,
    /// How long the guest may take to suspend, seconds
    #[arg(long, default_value_t = 60)]
    pub suspend_timeout: u64,
    /// Plain TCP: everybody on the way can read and change the guest
    #[arg(long)]
    pub insecure_plain: bool,
}

/// What to do when a move takes too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum OnTimeout {
    /// Give it up.
    Abort,
    /// Suspend the guest, and send the rest.
    Suspend,
}

/// How to take domains.
#[derive(Args, Debug)]
pub struct ReceiveArgs {
    /// Address, or address and port, to listen at
    #[arg(long, default_value = "0.0.0.0")]
    pub listen: String,
    /// End after one domain came
    #[arg(long)]
    pub once: bool,
    /// Plain TCP: everybody who can connect can put guests here
    #[arg(long)]
    pub insecure_plain: bool,
}

/// Which hosts to trust.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Certificate of a host that may send domains here and get them from here
    #[arg(long, value_name = "FILE")]
    pub trust: Vec<std::path::PathBuf>,
    /// What to call it
    #[arg(long, requires = "trust")]
    pub name: Option<String>,
}

/// What to do with the store.
#[derive(Subcommand, Debug)]
pub enum StoreCommand {
    /// List nodes and their values
    Ls {
        /// From here down
        #[arg(default_value = "/")]
        path: String,
        /// Show who may do what
        #[arg(short, long)]
        permissions: bool,
    },
    /// Print the value of a node
    Read {
        /// The node
        path: String,
    },
    /// Set the value of a node
    Write {
        /// The node
        path: String,
        /// The value
        value: String,
    },
    /// Remove a node and all below it
    Rm {
        /// The node
        path: String,
    },
    /// Print each change of a node or below it
    Watch {
        /// The node
        path: String,
        /// End after so many changes
        #[arg(short = 'n', long)]
        count: Option<u64>,
    },
}

/// A size of memory in KiB.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let kib = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "k" | "kib" => 1,
        "" | "m" | "mib" => 1 << 10,
        "g" | "gib" => 1 << 20,
        "t" | "tib" => 1 << 30,
        unit => return Err(format!("unknown unit \"{unit}\": K, M, G and T are known")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(kib))
        .filter(|&size| size > 0)
        .ok_or_else(|| "expected a size like 512M or 2G".to_owned())
}

/// Seconds between two looks.
pub fn parse_delay(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=86400.0).contains(seconds))
        .ok_or_else(|| "expected seconds, 0.1 to 86400".to_owned())
}

/// CPUs as `0-2,4` (with `^1` to take one out again), or `all` below `count`.
pub fn parse_cpus(text: &str, count: u32) -> Result<Vec<u32>, String> {
    let mut cpus = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (out, part) = match part.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, part),
        };
        let range = if part == "all" {
            0..=count.saturating_sub(1)
        } else {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.parse::<u32>()
                    .map_err(|_| format!("\"{part}\" names no CPUs; expected like 0-2,4"))
            };
            number(first)?..=number(last)?
        };
        if range.is_empty() || *range.end() >= count {
            return Err(format!(
                "\"{part}\": the machine's CPUs are 0 to {}",
                count.saturating_sub(1)
            ));
        }
        for cpu in range {
            if out {
                cpus.remove(&cpu);
            } else {
                cpus.insert(cpu);
            }
        }
    }
    if cpus.is_empty() {
        return Err(format!("\"{text}\" leaves no CPU"));
    }
    Ok(cpus.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// What stands in the README can be typed.
    #[test]
    fn the_readme_is_understood() {
        let text = include_str!("../../README.md").replace("\\\n", " ");
        let (mut within, mut count) = (false, 0);
        for line in text.lines() {
            within ^= line.starts_with("```");
            for command in line.split(';').filter(|_| within) {
                // Behind a `#` is a remark, behind a `>` a file.
                let words = command.split_whitespace();
                let words = words.take_while(|word| !word.starts_with(['#', '>']));
                let words: Vec<_> = words.collect();
                if words.first() != Some(&"overcast") {
                    continue;
                }
                let parsed = Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{command}: {:?}", parsed.err());
                count += 1;
            }
        }
        assert!(count > 15, "{count} commands");
    }

    #[test]
    fn who_moves_a_domain_does_not_end_with_its_listener() {
        let ends = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            !cli.command.goes_to_its_end()
        };
        for line in ["list", "dmesg", "store ls /"] {
            assert!(ends(&format!("overcast {line}")), "{line}");
        }
        for line in [
            "receive",
            "migrate g host",
            "save g file",
            "restore file",
            "daemon",
            "migrate-recover",
        ] {
            assert!(!ends(&format!("overcast {line}")), "{line}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_memory("512"), Ok(512 << 10));
        assert_eq!(parse_memory("2G"), Ok(2 << 20));
        assert_eq!(parse_memory("64k"), Ok(64));
        assert!(parse_memory("0").is_err());
        assert!(parse_memory("12x").is_err());
        assert!(parse_memory("99999999999999999999").is_err());
        assert!(parse_memory("18446744073709551615T").is_err());
    }

    #[test]
    fn delays_are_seconds() {
        assert_eq!(parse_delay("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "nan", "inf", "1e9", "x"] {
            assert!(parse_delay(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpus_are_ranges() {
        assert_eq!(parse_cpus("0-2,4", 8), Ok(vec![0, 1, 2, 4]));
        assert_eq!(parse_cpus("all,^1", 3), Ok(vec![0, 2]));
        for wrong in ["", "2-1", "8", "x", "0,^0", "0-4294967295"] {
            assert!(parse_cpus(wrong, 8).is_err(), "{wrong}");
        }
    }
}
