//! `stemedb assert` and `stemedb query`.

use std::io::Read;
use std::path::Path;

use serde_json::Value;
use stemedb_api::claims::{AssertAnswer, AssertRequest, QueryAnswer, QueryRow, Source, Statement};
use stemedb_client::QueryOptions;
use stemedb_types::limits::PAGE_ROWS_MAX;

use crate::cli::{AssertArgs, QueryArgs};
use crate::endpoint::Who;
use crate::exit::{Failure, USAGE};
use crate::output::{self, Output};

/// Most bytes of statements that are read from a file or standard input.
const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub(crate) async fn assert(args: AssertArgs) -> Result<(), Failure> {
    let statements = match &args.file {
        Some(path) => read_statements(path)?,
        None => vec![statement(&args)],
    };
    let client = args.target.client.client(Who::Project)?;
    let asserted = client.assert(&args.target.bucket, &statements).await?;
    match args.target.client.output {
        Output::Json => {
            output::json(&AssertAnswer { revision: asserted.revision, items: asserted.items })
        }
        Output::Table => {
            let rows = asserted.items.into_iter().map(|item| {
                [
                    item.id,
                    format!("{:?}", item.status).to_lowercase(),
                    asserted.revision.to_string(),
                ]
            });
            output::line(&output::table(["ID", "STATUS", "REVISION"], rows))
        }
    }
}

fn statement(args: &AssertArgs) -> Statement {
    let object = args.object.clone().unwrap_or_default();
    Statement {
        subject: args.subject.clone().unwrap_or_default(),
        predicate: args.predicate.clone().unwrap_or_default(),
        object: serde_json::from_str(&object).unwrap_or(Value::String(object)),
        confidence: args.confidence,
        valid_from: args.valid_from.clone(),
        valid_to: args.valid_to.clone(),
        source: args.source.clone().map(|uri| Source { uri: Some(uri), ..Source::default() }),
        refs: None,
    }
}

fn read_statements(path: &Path) -> Result<Vec<Statement>, Failure> {
    let refused = |why: String| Failure::new(USAGE, format!("{}: {why}", path.display()));
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(INPUT_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| refused(error.to_string()))?;
    let request: Result<AssertRequest, _> = serde_json::from_str(&text);
    match request {
        Ok(AssertRequest::Items(items)) => Ok(items.items),
        Ok(AssertRequest::Statement(statement)) => Ok(vec![*statement]),
        Err(error) if error.is_data() => {
            Err(refused("this is neither a statement nor {\"items\": [statement, …]}".to_owned()))
        }
        Err(error) => Err(refused(error.to_string())),
    }
}

pub(crate) async fn query(args: QueryArgs) -> Result<(), Failure> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let options = QueryOptions {
        subject: args.subject,
        subject_prefix: args.subject_prefix,
        predicate: args.predicate,
        predicate_prefix: args.predicate_prefix,
        agent: args.agent,
        valid_at: args.valid_at,
        as_of: args.as_of,
        lens: Some(args.lens),
        page_rows: Some(limit.clamp(1, PAGE_ROWS_MAX) as u64),
    };
    let client = args.target.client.client(Who::Project)?;
    let mut all = QueryAnswer { revision: 0, answers: Vec::new(), cursor: None };
    loop {
        let page = client.query_page(&args.target.bucket, &options, all.cursor.as_deref()).await?;
        (all.revision, all.cursor) = (page.revision, page.cursor);
        all.answers.extend(page.answers);
        if all.answers.len() >= limit || all.cursor.is_none() {
            break;
        }
    }
    all.answers.truncate(limit);
    // Everything asked for is here: there is nowhere to go on.
    all.cursor = None;
    match args.target.client.output {
        Output::Json => output::json(&all),
        Output::Table => {
            let header = ["SUBJECT", "PREDICATE", "OBJECT", "SINCE", "AGENTS"];
            output::line(&output::table(header, all.answers.iter().map(row)))
        }
    }
}

fn row(claim: &QueryRow) -> [String; 5] {
    [
        claim.subject.clone(),
        claim.predicate.clone(),
        plain(&claim.object),
        claim.valid_from.clone().unwrap_or_else(|| claim.asserted_at.clone()),
        claim.agents.join(","),
    ]
}

/// A text without its quotes, on one line; anything else as JSON.
pub(crate) fn plain(object: &Value) -> String {
    match object {
        Value::String(text) => text.replace('\n', " "),
        other => other.to_string(),
    }
}
