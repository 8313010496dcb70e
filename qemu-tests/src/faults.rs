//! What can go wrong while a guest moves: after each, there is one guest, it counts on, and there
//! is nothing left where it is not.

use crate::session::{Session, says};
use crate::trips::{self, Disk, Pair, Plan, guests, receive, until};

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The process that moves, or the one that receives, is killed at a point
    /// (`dom0-agent/src/migrate/fault.rs`); the guest stays.
    Stays(&'static str),
    /// As before; the guest has moved in the end.
    Moves(&'static str),
    /// Somebody wants it given up.
    Cancelled,
    /// The link is cut while pages are sent, and mended when the source has noticed.
    LinkCut,
    /// The target has no memory left.
    NoMemory,
    /// It takes longer than it may: it is given up, or the guest is suspended all the same.
    TooSlow,
    /// The disk is full in the middle of a save.
    DiskFull,
    /// The process that saves is killed.
    SaveKilled,
}

/// Those that CI has time for: each turn of the handover, from both ends.
pub const SHORT: &[Fault] = &[
    Fault::Stays("source-round"),
    Fault::Cancelled,
    Fault::Stays("source-suspended"),
    Fault::Stays("target-ready"),
    Fault::Moves("source-commit"),
    Fault::Stays("source-doubt"),
    Fault::Moves("target-written"),
];

/// The others.
pub const LONG: &[Fault] = &[
    Fault::Stays("source-offer"),
    Fault::Stays("source-ready"),
    Fault::Moves("source-running"),
    Fault::Stays("target-offer"),
    Fault::Stays("target-page"),
    Fault::Stays("target-complete"),
    Fault::Stays("target-commit"),
    Fault::Moves("target-running"),
    Fault::LinkCut,
    Fault::NoMemory,
    Fault::TooSlow,
    Fault::DiskFull,
    Fault::SaveKilled,
];

/// Shell's functions: `nodes` prints what the store and the daemon's records name, without values;
/// `unused` the machine's free memory in KiB; `clean` says whether both are as they were noted.
///
/// The hypervisor's heap grows by 2 MiB and never shrinks: what is missing otherwise is lost.
const REST: &str = "nodes() { (for d in /local/domain /libxl /vm; do overcast store ls $d 2>/dev/null | sed 's/ = .*//'; done; \
     ls /run/overcast/domains 2>/dev/null) | sort; }; \
     unused() { overcast info --json | sed -n 's/.*\"free_memory_kib\": *\\([0-9]*\\).*/\\1/p'; }; \
     clean() { nodes | cmp -s /tmp/nodes && lost=$(($(cat /tmp/unused) - $(unused))) && \
     [ $((lost % 2048)) = 0 ] && [ $lost -le 8192 ]; }";

/// Two machines and a guest with a disk that both see, which bears all of these.
///
/// # Errors
/// What was not as it has to be after one of them.
pub fn inject(name: &str, faults: &'static [Fault]) -> Result<(), String> {
    let plan = Plan {
        trips: 0,
        disk: Disk::Shared,
        faults,
        ..Plan::default()
    };
    trips::run(name, &plan)
}

/// Notes what machines without a guest have, once one like that of the test has come and gone:
/// some of what a first one needs stays.
pub(crate) fn note(hosts: &mut [Session; 2], plan: &Plan) -> Result<(), String> {
    if plan.faults.is_empty() {
        return Ok(());
    }
    for host in hosts {
        host.shell(REST)?;
        says(
            host,
            "overcast create --paused --name first --kernel /guest/vmlinuz --memory 96 --vif network=eth1 \
             --disk vda,xvda,w 2>/tmp/error || cat /tmp/error",
            "first is domain",
        )?;
        says(host, "overcast destroy first && echo gone", "gone")?;
        guests(host, 0)?;
        // Its backends may take a moment longer.
        host.shell("sleep 2; nodes >/tmp/nodes; unused >/tmp/unused; cat /tmp/unused")?;
    }
    Ok(())
}

/// Has each of the plan's faults happen.
pub(crate) fn run(pair: &mut Pair, plan: &Plan) -> Result<(), String> {
    if plan.faults.is_empty() {
        return Ok(());
    }
    for fault in plan.faults {
        let from = pair.at;
        one(pair, *fault).map_err(|why| format!("{fault:?}, from machine {}: {why}", from + 1))?;
        let well = pair
            .is_well(plan.disk == Disk::Shared)
            .and_then(|()| nothing_left(pair));
        if let Err(why) = well {
            for host in &mut pair.hosts {
                host.shell("overcast list; overcast migrate-status; cat /tmp/daemon.log /tmp/receive.log /tmp/move; \
                     nodes | diff /tmp/nodes -; cat /tmp/unused; unused")?;
            }
            return Err(pair.hosts[from].failure(&format!("after {fault:?}: {why}")));
        }
        println!(
            "{fault:?}: the guest is on machine {}, and well",
            pair.at + 1
        );
    }
    Ok(())
}

/// The machine without a guest has what it had before one came.
fn nothing_left(pair: &mut Pair) -> Result<(), String> {
    pair.hosts[1 - pair.at].shell(&until("clean")).map(|_| ())
}

fn other(host: usize) -> String {
    format!("10.9.0.{}", 2 - host)
}

/// Begins a move in the background; it ends with a line of /tmp/move.
fn begin(pair: &mut Pair, fault: &str, options: &str) -> Result<(), String> {
    let command = format!(
        "({fault} overcast migrate g {} --compress {} {options} >/tmp/move 2>&1; echo ended $? >>/tmp/move) &",
        other(pair.at),
        pair.compress
    );
    pair.hosts[pair.at].shell(&format!("rm -f /tmp/move; {command} true"))?;
    Ok(())
}

/// Waits until it ends; what it said.
fn end(pair: &mut Pair) -> Result<String, String> {
    let wait = until("grep -q ^ended /tmp/move");
    pair.hosts[pair.at].shell(&format!("{wait}; cat /tmp/move"))
}

/// Asks for a text in what a move said.
fn ends_with(pair: &mut Pair, wanted: &str) -> Result<(), String> {
    let said = end(pair)?;
    match said.contains(wanted) {
        true => Ok(()),
        false => Err(pair.hosts[pair.at].failure(&format!("it said {said:?}, without {wanted:?}"))),
    }
}

/// A slow move is under way.
fn slow(pair: &mut Pair) -> Result<(), String> {
    begin(pair, "", "--bandwidth 2M")?;
    let running = until("overcast migrate-status g | tail -1 | grep -q ': round 1'");
    pair.hosts[pair.at].shell(&running)?;
    Ok(())
}

/// Something ends at a point.
fn killed(pair: &mut Pair, point: &str) -> Result<(), String> {
    let (fault, from, to) = (format!("OVERCAST_FAULT={point}"), pair.at, 1 - pair.at);
    // Behind the first round it is the same after one pass over the memory as after many.
    let options = match point {
        "source-round" => "",
        _ => "--offline",
    };
    if point.starts_with("source") {
        begin(pair, &fault, options)?;
        return ends_with(pair, "ended 137");
    }
    receive(&mut pair.hosts[to], &fault)?;
    begin(pair, "", options)?;
    let host: &mut Session = &mut pair.hosts[to];
    host.shell(&until("! kill -0 $(cat /tmp/receive.pid) 2>/dev/null"))?;
    says(host, "cat /tmp/receive.log", "as OVERCAST_FAULT asks")?;
    receive(host, "")?;
    let wait = until("grep -q ^ended /tmp/move");
    pair.hosts[from].shell(&wait).map(|_| ())
}

fn one(pair: &mut Pair, fault: Fault) -> Result<(), String> {
    let (from, to) = (pair.at, 1 - pair.at);
    match fault {
        Fault::Stays(point) => killed(pair, point),
        Fault::Moves(point) => {
            killed(pair, point)?;
            pair.at = to;
            Ok(())
        }
        Fault::Cancelled => {
            slow(pair)?;
            pair.hosts[from].shell("overcast migrate-cancel g")?;
            ends_with(pair, "given up on request")
        }
        Fault::LinkCut => {
            slow(pair)?;
            pair.hosts[to].shell("ip link set eth0 down")?;
            let ended = ends_with(pair, "the connection to it");
            pair.hosts[to].shell("ip link set eth0 up")?;
            ended
        }
        Fault::NoMemory => {
            // All but 32 MiB.
            let fill = "overcast create --paused --name fill --kernel /guest/vmlinuz --memory \
                        $(($(unused) / 1024 - 32))M";
            says(&mut pair.hosts[to], fill, "fill is domain")?;
            begin(pair, "", "")?;
            ends_with(pair, "MiB of memory are wanted")?;
            says(
                &mut pair.hosts[to],
                "overcast destroy fill && echo gone",
                "gone",
            )
        }
        Fault::TooSlow => {
            begin(pair, "", "--downtime 1 --timeout 1")?;
            ends_with(pair, "ended 6")?;
            pair.is_well(false)?;
            begin(pair, "", "--downtime 1 --timeout 1 --on-timeout suspend")?;
            ends_with(pair, "ended 0")?;
            pair.at = to;
            Ok(())
        }
        Fault::DiskFull => {
            let host = &mut pair.hosts[from];
            host.shell("mkdir -p /small; mount -t tmpfs -o size=4m small /small")?;
            says(host, "overcast save g /small/g 2>&1 | cat", "No space")?;
            says(host, "ls /small | wc -l; umount /small", "0")
        }
        Fault::SaveKilled => {
            let host = &mut pair.hosts[from];
            host.shell(
                "OVERCAST_FAULT=save-suspended overcast save g /tmp/g.save; rm -f /tmp/g.save*",
            )?;
            guests(host, 1)
        }
    }
}
