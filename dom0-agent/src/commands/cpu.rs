//! CPUs of this machine and of others.

use std::io::{self, Write};

use overcast_core::cpuid::{Identity, PoolError, pool};

use super::{find, print_json};
use crate::cli::CpuCommand;
use crate::control::Control;
use crate::cpu::explain::explain;
use crate::cpu::file::{GuestFile, MachineFile, PolicyFile, read_machine};
use crate::cpu::report::{self, Comparison, dump, pooled};
use crate::cpu::{self, Guest, Machine, feature_by_name};
use crate::error::{Error, Result};
use crate::store::Store;

pub fn run(command: CpuCommand, json: bool) -> Result<()> {
    let mut out = io::stdout();
    match command {
        CpuCommand::Dump => {
            let machine = Machine::here(&Control::open()?)?;
            if json {
                return print_json(&MachineFile::of(&machine));
            }
            out.write_all(dump(&machine).as_bytes())?;
        }
        CpuCommand::Show { domain } => {
            let control = Control::open()?;
            let (info, name) = find(&control, &domain)?;
            let seen = cpu::seen(&control, &mut Store::open()?, info.id, &info.uuid)?;
            let guest = Guest {
                name: name.unwrap_or(domain),
                seen,
            };
            let machine = Machine::here(&control)?.policies;
            if json {
                return print_json(&GuestFile::of(&guest, &machine));
            }
            out.write_all(report::guest(&guest, &machine).as_bytes())?;
        }
        CpuCommand::Baseline { files } => {
            let machines = files
                .iter()
                .map(|file| read_machine(file))
                .collect::<Result<Vec<_>>>()?;
            let policies: Vec<_> = machines.iter().map(|machine| &machine.policies).collect();
            let common = pool(&policies, Identity::Level).map_err(|error| {
                Error::Unfit(match error {
                    PoolError::Vendor(at) => format!(
                        "no guest moves between CPUs of different vendors: {} has another's than {}",
                        files[at].display(),
                        files[0].display()
                    ),
                    PoolError::Empty => "no machines".to_owned(),
                })
            })?;
            if json {
                return print_json(&PolicyFile::of(&common, &machines));
            }
            out.write_all(pooled(&common, &machines).as_bytes())?;
        }
        CpuCommand::Compare { from, to } => {
            let comparison = Comparison::of(&read_machine(&from)?, &read_machine(&to)?);
            if json {
                print_json(&comparison)?;
            } else {
                out.write_all(comparison.text().as_bytes())?;
            }
            if !comparison.can_move() {
                return Err(Error::Unfit(format!(
                    "a guest cannot move from {} to {}",
                    from.display(),
                    to.display()
                )));
            }
        }
        CpuCommand::Explain { flag } => {
            let feature = feature_by_name(&flag).ok_or_else(|| {
                Error::Usage(format!(
                    "no feature of a CPU is known as \"{flag}\"; `overcast cpu dump` names those of this machine"
                ))
            })?;
            // It is explained elsewhere too, without what is here.
            let machine = Control::open().and_then(|control| Machine::here(&control));
            let explanation = explain(feature, machine.ok().as_ref());
            if json {
                return print_json(&explanation);
            }
            out.write_all(explanation.text().as_bytes())?;
        }
    }
    Ok(())
}
