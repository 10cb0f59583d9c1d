//! `stemedb healthcheck`: for container engines, which have no curl.

use std::time::Duration;

use stemedb_client::Client;

use crate::cli::HealthArgs;
use crate::exit::{Failure, UNAVAILABLE};
use crate::output;

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let client = Client::builder(args.url).timeout(PATIENCE).build()?;
    let readiness = client.readyz().await?;
    if readiness.ready {
        return output::line("ready");
    }
    Err(Failure::new(UNAVAILABLE, format!("not ready: {}", readiness.reasons.join("; "))))
}
