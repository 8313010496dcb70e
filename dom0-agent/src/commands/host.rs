//! The machine and its hypervisor.

use std::io::{self, Write};

use serde::Serialize;

use super::print_json;
use crate::control::{Control, HostInfo};
use crate::cpu::{Machine, report};
use crate::error::{Error, Result};
use crate::store::Store;

pub fn info(json: bool) -> Result<()> {
    let host = Control::open()?.host()?;
    if json {
        return print_json(&host);
    }
    let HostInfo {
        version,
        capabilities,
        command_line,
        cpus,
        threads_per_core,
        cores_per_socket,
        nodes,
        cpu_khz,
        memory_kib,
        free_memory_kib,
        scheduler,
    } = host;
    let mut out = io::stdout().lock();
    writeln!(out, "version              {version}")?;
    writeln!(out, "command line         {command_line}")?;
    writeln!(out, "guests               {capabilities}")?;
    writeln!(out, "scheduler            {scheduler}")?;
    writeln!(out, "CPUs                 {cpus}")?;
    writeln!(out, "threads per core     {threads_per_core}")?;
    writeln!(out, "cores per socket     {cores_per_socket}")?;
    writeln!(out, "NUMA nodes           {nodes}")?;
    writeln!(
        out,
        "CPU speed            {}.{:03} MHz",
        cpu_khz / 1000,
        cpu_khz % 1000
    )?;
    writeln!(out, "memory               {} MiB", memory_kib >> 10)?;
    writeln!(out, "free memory          {} MiB", free_memory_kib >> 10)?;
    Ok(())
}

pub fn dmesg(clear: bool) -> Result<()> {
    let log = Control::open()?.console_ring(clear)?;
    io::stdout().lock().write_all(&log)?;
    Ok(())
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    found: String,
}

pub fn check(json: bool) -> Result<()> {
    let mut checks = Vec::new();
    let mut add = |what, ok, found: String| checks.push(Check { what, ok, found });
    let control = Control::open();
    match control.as_ref().map(|control| control.host()) {
        Err(error) => add("control interface", false, error.to_string()),
        Ok(Err(error)) => add("control interface", false, error.to_string()),
        Ok(Ok(host)) => {
            let pv = host
                .capabilities
                .split(' ')
                .any(|kind| kind == "xen-3.0-x86_64");
            add("hypervisor", true, host.version.clone());
            add("64-bit PV guests", pv, host.capabilities.clone());
            add("CPUs", host.cpus > 0, host.cpus.to_string());
            if let Ok(control) = &control
                && let Ok(machine) = Machine::here(control)
            {
                add("CPU of guests", true, report::baseline(&machine).to_owned());
                let visible = report::visible(&machine);
                let found = match (machine.policies.faulting(), visible.is_empty()) {
                    (true, _) => "CPUID faults: programs see the same".to_owned(),
                    (false, true) => "nothing more to be seen by programs".to_owned(),
                    (false, false) => format!("programs see beside: {}", visible.join(" ")),
                };
                // Not a fault of the machine: but guests that move have to reckon with it.
                add("CPU features hidden", true, found);
            }
            let free = host.free_memory_kib >> 10;
            add(
                "free memory for guests",
                free >= 64,
                format!("{free} MiB of {} MiB", host.memory_kib >> 10),
            );
        }
    }
    match Store::open().and_then(|mut store| store.list("/local/domain")) {
        Ok(domains) => add("store", true, format!("{} domains known", domains.len())),
        Err(error) => add("store", false, error.to_string()),
    }
    for (what, path) in [
        ("event channels", "/dev/xen/evtchn"),
        ("grants", "/dev/xen/gntdev"),
        ("grants to others", "/dev/xen/gntalloc"),
    ] {
        let found = std::path::Path::new(path).exists();
        let state = if found {
            path.to_owned()
        } else {
            format!("{path} is missing")
        };
        add(what, found, state);
    }
    let unfit = checks.iter().filter(|check| !check.ok).count();
    if json {
        print_json(&checks)?;
    } else {
        let mut out = io::stdout().lock();
        for Check { what, ok, found } in &checks {
            let mark = if *ok { "ok" } else { "MISSING" };
            writeln!(out, "{mark:<8} {what:<24} {found}")?;
        }
    }
    match unfit {
        0 => Ok(()),
        _ => Err(Error::Unfit(format!(
            "{unfit} of {} checks failed",
            checks.len()
        ))),
    }
}
