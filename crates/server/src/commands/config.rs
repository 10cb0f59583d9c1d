//! `stemedb config show|check`: what a node would be told, without starting one.

use serde_json::json;

use crate::cli::ConfigCommand;
use crate::exit::{ERROR, Failure};
use crate::output::{self, Output};
use crate::settings::{
    Effective, Inputs, SettingFlags, SystemFiles, check, effective, read_file, unknown_names,
};

pub(crate) fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show { settings, output } => show(&gather(settings)?, output),
        ConfigCommand::Check { settings, env_only } => {
            let unknown = unknown_names(&environment());
            if !env_only {
                check(&gather(settings)?, &SystemFiles)?;
            }
            if !unknown.is_empty() {
                let names = unknown.join(", ");
                return Err(Failure::new(ERROR, format!("no setting has this name: {names}")));
            }
            output::line("ok")
        }
    }
}

/// Every setting's text, from flags, this process's environment and the file they name.
pub(crate) fn gather(flags: SettingFlags) -> Result<Effective, Failure> {
    let env = environment();
    let named = || env.iter().find(|(name, _)| name == "STEMEDB_CONFIG").map(|(_, path)| path);
    let path = flags.config.as_ref().or_else(named).filter(|path| !path.is_empty()).cloned();
    let file = path.map(|path| read_file(&path).map(|text| (path, text))).transpose()?;
    Ok(effective(&Inputs { flags: flags.given, env, file })?)
}

/// The environment, without what is not text: no setting is.
fn environment() -> Vec<(String, String)> {
    let texts = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(texts).collect()
}

fn show(effective: &Effective, output: Output) -> Result<(), Failure> {
    let rows = effective.0.iter();
    match output {
        Output::Table => {
            let cells =
                rows.map(|row| [row.setting.flag.to_owned(), row.shown(), row.given.to_string()]);
            output::line(&output::table(["SETTING", "VALUE", "SOURCE"], cells))
        }
        Output::Json => {
            let items: Vec<_> = rows
                .map(|row| {
                    let value = row.text.as_ref().map(|_| row.shown());
                    json!({ "setting": row.setting.flag, "value": value, "source": row.given.to_string() })
                })
                .collect();
            output::json(&json!({ "items": items }))
        }
    }
}
