//! `stemedb keys create|list|revoke`.

use stemedb_api::admin::{CreateKey, IfExists, KeyRecord, Role};

use crate::cli::KeysCommand;
use crate::endpoint::Who;
use crate::exit::Failure;
use crate::output::{self, Output};

/// Reads a role's name, for clap.
pub(crate) fn role(name: &str) -> Result<Role, String> {
    let names = || Role::ALL.map(Role::as_str).join(", ");
    Role::parse(name).ok_or_else(|| format!("a role is one of {}", names()))
}

pub(crate) async fn run(command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Create { client, label, role, of, if_absent } => {
            let if_exists = if_absent.then_some(IfExists::Return);
            let request = CreateKey { label, role, project: of, key: None, if_exists };
            let created = client.client(Who::Admin)?.create_key(&request).await?;
            match (client.output, &created.key) {
                (Output::Json, _) => output::json(&created),
                // The key alone, so that `KEY=$(stemedb keys create …)` works.
                (Output::Table, Some(key)) => output::line(&key.0),
                (Output::Table, None) => output::line(&table(&[created.record])),
            }
        }
        KeysCommand::List(args) => {
            let keys = args.client(Who::Admin)?.keys().await?;
            match args.output {
                Output::Json => output::json(&serde_json::json!({ "items": keys })),
                Output::Table => output::line(&table(&keys)),
            }
        }
        KeysCommand::Revoke { client, hash } => {
            Ok(client.client(Who::Admin)?.revoke_key(&hash).await?)
        }
    }
}

fn table(keys: &[KeyRecord]) -> String {
    let rows = keys.iter().map(|key| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        [
            key.label.clone(),
            key.role.as_str().to_owned(),
            or_dash(&key.project),
            key.created_at.clone(),
            or_dash(&key.revoked_at),
            key.hash.clone(),
        ]
    });
    output::table(["LABEL", "ROLE", "PROJECT", "CREATED", "REVOKED", "HASH"], rows)
}
