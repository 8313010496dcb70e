//! vCPUs, and domains' shares of the CPUs.

use std::io::{self, Write};

use serde::Serialize;

use super::{chosen, find, print_json, shown};
use crate::cli::parse_cpus;
use crate::control::{Control, Share, VcpuInfo};
use crate::error::{Error, Result};
use crate::store::Store;

#[derive(Serialize)]
struct Listed<'a> {
    domain: u16,
    name: Option<&'a str>,
    vcpus: Vec<VcpuInfo>,
}

pub fn list(domains: &[String], json: bool) -> Result<()> {
    let control = Control::open()?;
    let domains = chosen(&control, domains)?;
    let mut listed = Vec::new();
    for (info, name) in &domains {
        listed.push(Listed {
            domain: info.id,
            name: name.as_deref(),
            vcpus: control.vcpus(info)?,
        });
    }
    if json {
        return print_json(&listed);
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<32} {:>5} {:>5} {:>4} {:<5} {:>10}  Affinity (hard / soft)",
        "Name", "ID", "vCPU", "CPU", "State", "Time(s)"
    )?;
    for (Listed { vcpus, domain, .. }, (_, name)) in listed.iter().zip(&domains) {
        for vcpu in vcpus {
            let state = match vcpu {
                VcpuInfo { online: false, .. } => "-p-",
                VcpuInfo { running: true, .. } => "r--",
                VcpuInfo { blocked: true, .. } => "-b-",
                _ => "---",
            };
            let cpu = if vcpu.online {
                vcpu.cpu.to_string()
            } else {
                "-".into()
            };
            writeln!(
                out,
                "{:<32} {:>5} {:>5} {:>4} {:<5} {:>10.1}  {} / {}",
                shown(name, *domain),
                domain,
                vcpu.vcpu,
                cpu,
                state,
                vcpu.cpu_time_ns as f64 / 1e9,
                ranges(&vcpu.hard_affinity),
                ranges(&vcpu.soft_affinity),
            )?;
        }
    }
    Ok(())
}

/// Numbers as `0-2,4`.
fn ranges(numbers: &[u32]) -> String {
    let mut out = String::new();
    let mut rest = numbers;
    while let [first, ..] = rest {
        let run = rest
            .iter()
            .zip(u64::from(*first)..)
            .take_while(|&(&number, expected)| u64::from(number) == expected)
            .count();
        if !out.is_empty() {
            out.push(',');
        }
        out += &first.to_string();
        if run > 1 {
            out += &format!("-{}", rest[run - 1]);
        }
        rest = &rest[run..];
    }
    out
}

pub fn set(domain: &str, vcpus: u32) -> Result<()> {
    let control = Control::open()?;
    let (info, _) = find(&control, domain)?;
    if !(1..=info.max_vcpus).contains(&vcpus) {
        return Err(Error::Usage(format!(
            "{domain} can have 1 to {} vCPUs",
            info.max_vcpus
        )));
    }
    let mut store = Store::open()?;
    for vcpu in 0..info.max_vcpus {
        let state = if vcpu < vcpus { "online" } else { "offline" };
        let node = format!("/local/domain/{}/cpu/{vcpu}/availability", info.id);
        store.write(&node, state.as_bytes())?;
    }
    Ok(())
}

pub fn pin(domain: &str, vcpu: &str, hard: &str, soft: Option<&str>) -> Result<()> {
    let control = Control::open()?;
    let (info, _) = find(&control, domain)?;
    let vcpus = match vcpu {
        "all" => 0..info.max_vcpus,
        number => match number.parse() {
            Ok(number) if number < info.max_vcpus => number..number + 1,
            _ => {
                return Err(Error::Usage(format!(
                    "{domain} has no vCPU \"{vcpu}\"; it has {}",
                    info.max_vcpus
                )));
            }
        },
    };
    let count = control.host()?.cpus;
    let cpus = |text: &str| match text {
        "-" => Ok(None),
        text => parse_cpus(text, count).map(Some).map_err(Error::Usage),
    };
    let (hard, soft) = (cpus(hard)?, cpus(soft.unwrap_or("-"))?);
    if hard.is_none() && soft.is_none() {
        return Err(Error::Usage(
            "nothing to set: both affinities are \"-\"".into(),
        ));
    }
    for vcpu in vcpus {
        control.set_affinity(info.id, vcpu, hard.as_deref(), soft.as_deref())?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Shared<'a> {
    domain: u16,
    name: Option<&'a str>,
    #[serde(flatten)]
    share: Share,
}

pub fn sched(
    domain: Option<&str>,
    weight: Option<u16>,
    cap: Option<u16>,
    json: bool,
) -> Result<()> {
    let control = Control::open()?;
    let domains: Vec<String> = domain.into_iter().map(str::to_owned).collect();
    let domains = chosen(&control, &domains)?;
    if weight.is_some() || cap.is_some() {
        for (info, _) in &domains {
            let now = control.share(info.id)?;
            control.set_share(
                info.id,
                Share {
                    weight: weight.unwrap_or(now.weight),
                    cap: cap.unwrap_or(now.cap),
                },
            )?;
        }
        return Ok(());
    }
    let mut shares = Vec::new();
    for (info, name) in &domains {
        shares.push(Shared {
            domain: info.id,
            name: name.as_deref(),
            share: control.share(info.id)?,
        });
    }
    if json {
        return print_json(&shares);
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<32} {:>5} {:>7} {:>5}",
        "Name", "ID", "Weight", "Cap"
    )?;
    for (Shared { domain, share, .. }, (_, name)) in shares.iter().zip(&domains) {
        writeln!(
            out,
            "{:<32} {:>5} {:>7} {:>5}",
            shown(name, *domain),
            domain,
            share.weight,
            share.cap
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn numbers_become_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 4]), "0-2,4");
        assert_eq!(ranges(&[7]), "7");
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[u32::MAX]), u32::MAX.to_string());
    }
}
