//! The loop against stores in memory: right ones, lying ones, dead ones.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tokio::task::{LocalSet, yield_now};

use super::*;

/// How a fake store treats its clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Right,
    RefusesPuts,
    RefusesFirstPuts,
    CutsValues,
    MixesKeys,
    NeverAnswers,
}

#[derive(Clone)]
struct Fake {
    manner: Manner,
    values: Rc<RefCell<BTreeMap<String, Bytes>>>,
    refused: Rc<Cell<u32>>,
}

impl Fake {
    fn new(manner: Manner) -> Self {
        Fake { manner, values: Rc::default(), refused: Rc::default() }
    }
}

impl Store for Fake {
    type Session = Fake;

    async fn session(&self, _client: usize) -> Result<Fake> {
        Ok(self.clone())
    }
}

impl Session for Fake {
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()> {
        yield_now().await;
        let first = self.manner == Manner::RefusesFirstPuts && self.refused.get() < 2;
        if first || self.manner == Manner::RefusesPuts {
            self.refused.set(self.refused.get() + 1);
            bail!("status 503: no leader");
        }
        self.values.borrow_mut().insert(key.to_owned(), value);
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<Bytes> {
        yield_now().await;
        let values = self.values.borrow().clone();
        match self.manner {
            Manner::NeverAnswers => std::future::pending().await,
            Manner::CutsValues => Ok(values[key].slice(1..)),
            Manner::MixesKeys => Ok(values.values().next().context("empty")?.clone()),
            _ => values.get(key).cloned().context("not there"),
        }
    }
}

const WORKLOAD: Workload = Workload { keys: 50, value_bytes: 32, seed: 1 };

/// One cell of 20 ms over the store, of whose servers each reading of the clock costs 5 ms.
async fn cell(store: &Fake, operation: Operation) -> Result<Run> {
    let measured = Duration::from_millis(20);
    let (warm_up, drain_limit) = (Duration::ZERO, Duration::from_millis(500));
    let plan = CellPlan { operation, clients: 4, warm_up, measured, drain_limit };
    let clock = Cell::new(Duration::ZERO);
    let cpu = || {
        clock.set(clock.get() + Duration::from_millis(5));
        Ok(clock.get())
    };
    LocalSet::new().run_until(run_cell(store, WORKLOAD, plan, cpu)).await
}

async fn filled(manner: Manner) -> Fake {
    let store = Fake::new(manner);
    LocalSet::new().run_until(preload(&store, WORKLOAD)).await.unwrap();
    store
}

fn counts(run: Run) -> (bool, bool, Option<String>) {
    let summary = crate::tally::summarize(&[run]).unwrap();
    (summary.ops_per_s > 0.0, summary.errors > 0, summary.first_error)
}

#[tokio::test]
async fn the_preload_writes_every_key_once() {
    let store = filled(Manner::Right).await;
    let values = store.values.borrow();
    assert_eq!(values.len(), 50);
    for (index, (key, value)) in values.iter().enumerate() {
        assert_eq!(*key, Workload::key(index as u64));
        WORKLOAD.check(index as u64, value).unwrap();
    }
}

#[tokio::test]
async fn the_preload_tries_again_while_a_cluster_is_young() {
    let store = filled(Manner::RefusesFirstPuts).await;
    assert_eq!((store.values.borrow().len(), store.refused.get()), (50, 2));
}

#[tokio::test]
async fn right_answers_are_counted_for_both_operations() {
    let store = filled(Manner::Right).await;
    for operation in [Operation::Put, Operation::Get] {
        let run = cell(&store, operation).await.unwrap();
        assert_eq!(run.server_cpu, Duration::from_millis(5));
        assert_eq!(counts(run), (true, false, None), "{operation}");
    }
}

#[tokio::test]
async fn a_refused_put_is_an_error_of_the_cell_with_its_reason() {
    let store = Fake::new(Manner::RefusesPuts);
    let run = cell(&store, Operation::Put).await.unwrap();
    assert_eq!(counts(run), (false, true, Some("status 503: no leader".to_owned())));
}

#[tokio::test]
async fn a_short_value_is_an_error() {
    let store = filled(Manner::CutsValues).await;
    let run = cell(&store, Operation::Get).await.unwrap();
    assert_eq!(counts(run), (false, true, Some("a value of 31 bytes, not 32".to_owned())));
}

#[tokio::test]
async fn the_value_of_another_key_is_an_error() {
    // Intent: one of the 50 keys is answered rightly, so both counts move.
    let store = filled(Manner::MixesKeys).await;
    let run = cell(&store, Operation::Get).await.unwrap();
    let (_, errors, reason) = counts(run);
    assert_eq!((errors, reason.as_deref()), (true, Some("the value of another key")));
}

#[tokio::test]
async fn a_missing_key_is_an_error() {
    let run = cell(&Fake::new(Manner::Right), Operation::Get).await.unwrap();
    assert_eq!(counts(run), (false, true, Some("not there".to_owned())));
}

#[tokio::test]
async fn clients_that_get_no_answer_end_the_run_within_bounds() {
    let run = cell(&Fake::new(Manner::NeverAnswers), Operation::Get).await;
    assert!(run.unwrap_err().to_string().starts_with("no client got an answer"));
}

#[test]
fn values_shorter_than_the_mark_still_work() {
    let mut chance = WORKLOAD.chance(0);
    for value_bytes in 0..10 {
        let workload = Workload { value_bytes, ..WORKLOAD };
        let value = workload.value(7, &mut chance);
        assert_eq!(value.len(), value_bytes);
        workload.check(7, &value).unwrap();
    }
}

#[test]
fn each_client_draws_its_own_numbers() {
    let mut draws: Vec<u64> = (0..256).map(|client| WORKLOAD.chance(client).random()).collect();
    draws.sort_unstable();
    draws.dedup();
    assert_eq!(draws.len(), 256);
}
