//! Real processes under real faults.
//!
//! Each fault gets a cluster of its own: three processes of the real binary, and clients that
//! write down what they ask and hear. For as long as was asked for, rounds of the fault follow each
//! other, drawn from a seed; then the cluster must heal, and is asked for everything it ever
//! acknowledged, through every node. What the registers answered is judged by the checker of the
//! simulation.
//!
//! A seed gives the same rounds, not the same run: processes, disks and the kernel keep their own
//! time. What must be found again belongs into the simulation, which replays; what this is for
//! is everything the simulation replaces by something of its own: processes, sockets, the kernel's
//! timers, the binary as it is shipped.
//!
//! | file | idea |
//! |---|---|
//! | `fault` | the faults and the steps of a round; pure |
//! | `steer` | one fault on one cluster |
//! | `site` | a cluster, and all that can be done to it |
//! | `network` | what lies between the nodes |
//! | `namespaces` | a network namespace for each node |
//! | `forwarder`, `dialer` | wires in user space, and whose connection it is |
//! | `clock` | clocks that can be put off |
//! | `clients`, `record` | what is asked, and what is written down of it |
//! | `outcome` | held, violated or undecided |

mod clients;
mod clock;
mod dialer;
mod fault;
mod forwarder;
mod namespaces;
mod network;
mod outcome;
mod record;
mod site;
mod steer;

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

pub(crate) use fault::Asked;
pub(crate) use namespaces::End;
pub(crate) use network::{Kind, Network};
pub(crate) use site::{Said, Site};

use crate::cli::{FaultsArgs, Output};
use crate::place;
use crate::report::built;
use outcome::{Findings, Judgement};

/// Nothing was violated, but something not proved.
const UNDECIDED: u8 = 3;

/// Runs the faults asked for, one after the other, and prints what came of them. Status 1: something
/// was violated; 3: something was not proved.
///
/// # Errors
/// There is no place for the data.
pub(crate) async fn run(arguments: &FaultsArgs) -> Result<ExitCode> {
    let scratch = place::scratch(&arguments.servers.data_dir)?;
    let mut all: Vec<Findings> = Vec::new();
    for fault in fault::chosen(&arguments.faults) {
        let dir = scratch.path().join(fault.to_string());
        eprintln!("{fault}: seed {}", arguments.seed);
        let findings = steer::run(arguments, fault, dir.clone()).await;
        // At once: a run of hours that is cut short has told what it found.
        eprintln!("{}", outcome::line(&findings));
        all.push(findings);
        if dir.exists()
            && let Err(error) = std::fs::remove_dir_all(&dir)
        {
            eprintln!("left behind: {}: {error}", dir.display());
        }
    }
    match arguments.servers.output {
        Output::Table => {
            print!("{}\nseed {}\n{}", outcome::text(&all), arguments.seed, built());
        }
        Output::Json => {
            let runs = all.iter().map(Findings::json).collect::<Vec<_>>();
            let (seed, seconds) = (arguments.seed, arguments.seconds);
            println!(
                "{:#}",
                json!({ "built": built(), "seed": seed, "seconds": seconds, "runs": runs })
            );
        }
    }
    let judged: Vec<Judgement> = all.iter().map(Findings::judge).collect();
    let any = |is: fn(&Judgement) -> bool| judged.iter().any(is);
    Ok(if any(|j| matches!(j, Judgement::Violated(_))) {
        ExitCode::FAILURE
    } else if any(|j| matches!(j, Judgement::Undecided(_))) {
        ExitCode::from(UNDECIDED)
    } else {
        ExitCode::SUCCESS
    })
}
