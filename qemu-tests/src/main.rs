//! Runs the tests and benchmarks that boot machines in QEMU.

use overcast_qemu_tests::{bench, cases, io_bench, moves, runner, trips};
use std::process::ExitCode;

const USAGE: &str = "\
usage: overcast-qemu-tests run [--filter TEXT] [--jobs N] [--soak]
       overcast-qemu-tests list
       overcast-qemu-tests bench [--systems bare,xen,overcast]
       overcast-qemu-tests bench --io [--systems NAMES] [--cpus N] [--requests N] [--rounds N]
                           [--profile N] [--no-count] [--wall] [--options TEXT]
       overcast-qemu-tests bench --save
       overcast-qemu-tests demo [--trips N] [--memory MIB] [--load MIB] [--compress HOW] [--vcpus N]
                           [--disk own|shared|none]

  run     boots machines in QEMU and checks what they do
  list    names the tests
  bench   what operations cost a guest, in executed instructions
  bench --io  what requests to disk and network cost, in executed instructions and in time
  bench --save  what it costs to take a guest's pages, in each way to do that
  demo    moves a guest between two machines and back, while a client listens to it

  --filter TEXT   only tests whose name contains TEXT
  --jobs N        machines at the same time [2]
  --soak          the long tests too
  --cpus N        CPUs where the time is taken [1]
  --requests N    how many requests of each kind [400]
  --rounds N      how often the time is taken; the least counts [0]
  --profile N     names the N functions of the hypervisor that cost most
  --no-count      counts no instructions
  --wall          fio and iperf3 by the clock instead, in turns; medians of the rounds
  --options TEXT  more options for the hypervisor
  --trips N       how often there and back [1]
  --memory MIB    the guest's memory [128]
  --load MIB      how much of it the guest writes over again and again; a load above 8
                  needs 128 MiB of memory beside it [4]
  --compress HOW  none, lz4 or zstd [lz4]
  --vcpus N       the guest's vCPUs [1]
  --disk WHICH    own: each machine has one, and its contents move with the guest; shared:
                  both machines see the same; none [own]

The images come from scripts/build.sh, setup.sh and initramfs.sh; OVERCAST_IMAGE
names another one to test. OVERCAST_PATIENCE is how many seconds a machine may be
silent about what is waited for before it counts as hung [300]. What machines say
is kept in build/logs.";

fn main() -> ExitCode {
    match go(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn count(name: &str, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("{name} needs a number"))
}

fn go(arguments: Vec<String>) -> Result<bool, String> {
    let mut arguments = arguments.into_iter();
    let command = arguments.next().unwrap_or_default();
    let mut plan = runner::Plan {
        filter: String::new(),
        jobs: 2,
        soak: false,
    };
    let mut demo = trips::Plan::default();
    let mut systems = None;
    let mut io = io_bench::Plan::default();
    let (mut is_io, mut is_save) = (false, false);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--filter" => plan.filter = value()?,
            "--jobs" => plan.jobs = value()?.parse().map_err(|_| "--jobs needs a number")?,
            "--systems" => systems = Some(value()?),
            "--io" => is_io = true,
            "--save" => is_save = true,
            "--cpus" => io.cpus = count(&argument, &value()?)?,
            "--requests" => io.requests = count(&argument, &value()?)?,
            "--rounds" => io.rounds = count(&argument, &value()?)?,
            "--profile" => io.profile = count(&argument, &value()?)? as usize,
            "--no-count" => io.count = false,
            "--wall" => io.wall = true,
            "--options" => io.options = value()?,
            "--trips" => demo.trips = count(&argument, &value()?)?,
            "--memory" => demo.memory = count(&argument, &value()?)?,
            "--load" => demo.load = count(&argument, &value()?)?,
            "--compress" => demo.compress = value()?,
            "--vcpus" => demo.vcpus = count(&argument, &value()?)?,
            "--disk" => {
                demo.disk = match value()?.as_str() {
                    "own" => trips::Disk::Own,
                    "shared" => trips::Disk::Shared,
                    "none" => trips::Disk::None,
                    other => return Err(format!("what disk is {other}?")),
                }
            }
            "--soak" => plan.soak = true,
            other => return Err(format!("what is {other}?")),
        }
    }
    demo.check()?;
    match command.as_str() {
        "run" => Ok(runner::run(&cases::all(), &plan)),
        "list" => {
            for case in cases::all() {
                println!("{}{}", case.name, if case.soak { " (soak)" } else { "" });
            }
            Ok(true)
        }
        "bench" => {
            let measured = if is_save {
                moves::bench()
            } else if is_io {
                if let Some(systems) = systems {
                    io.systems = systems;
                }
                io_bench::run(&io)
            } else {
                bench::run(systems.as_deref().unwrap_or("bare,xen,overcast"))
            };
            measured.map(|()| true).or_else(|why| {
                eprintln!("{why}");
                Ok(false)
            })
        }
        "demo" => trips::run("demo", &demo).map(|()| true).or_else(|why| {
            eprintln!("{why}");
            Ok(false)
        }),
        "--help" | "-h" => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => Err("what is to be done?".to_owned()),
    }
}
