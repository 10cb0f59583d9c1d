//! What is counted, and how counts are put together.
//!
//! Each client counts into a tally of its own; the tallies of one cell are
//! merged when its time is over, and the runs of a cell once more over the
//! rounds. Percentiles are taken from the merged histogram, never averaged.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

/// Decimal digits of a latency that the histogram keeps: an error of at most 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Operations of one client, or of several together.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Of operations that succeeded, in microseconds.
    latency_us: Histogram<u32>,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// None in practice: the histogram refuses only a precision it does not know.
    pub(crate) fn new() -> Result<Self> {
        let latency_us = Histogram::new(SIGNIFICANT_DIGITS)?;
        Ok(Tally { latency_us, errors: 0, first_error: None })
    }

    /// Counts an operation that gave the right answer after this time.
    ///
    /// # Errors
    /// None in practice: the histogram grows to hold the value.
    pub(crate) fn succeeded(&mut self, latency: Duration) -> Result<()> {
        // `record`, since `saturating_record` would cut at what the histogram holds by now.
        Ok(self.latency_us.record(u64::try_from(latency.as_micros())?)?)
    }

    /// Counts an operation that failed or gave a wrong answer. Its time is not kept: a quick
    /// refusal must not look like a quick answer.
    pub(crate) fn failed(&mut self, reason: impl ToString) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| reason.to_string());
    }

    /// Adds what another counted.
    ///
    /// # Errors
    /// None in practice: the histogram grows to hold the other's.
    pub(crate) fn merge(&mut self, other: &Tally) -> Result<()> {
        self.latency_us.add(&other.latency_us)?;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        Ok(())
    }

    /// Of the right answers, this part came within the time given back.
    pub(crate) fn percentile_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Operations that failed or gave a wrong answer, and what the first of them said.
    pub(crate) fn errors(&self) -> (u64, Option<&str>) {
        (self.errors, self.first_error.as_deref())
    }

    /// Operations that gave the right answer.
    pub(crate) fn operations(&self) -> u64 {
        self.latency_us.len()
    }
}

/// The one in the middle, of an even number the upper of the two; no number, if there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One cell of the table, measured once.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// What the clients counted while it was measured.
    pub(crate) tally: Tally,
    /// How long that was.
    pub(crate) elapsed: Duration,
    /// CPU time of all servers together in that time.
    pub(crate) server_cpu: Duration,
    /// CPU time of the load generator in that time.
    pub(crate) client_cpu: Duration,
    /// CPU time of everything else on the machine in that time.
    pub(crate) other_cpu: Duration,
}

/// A cell over all its runs, in the units of the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Right answers per second, over all runs.
    pub(crate) ops_per_s: f64,
    /// The same for each run.
    pub(crate) ops_per_s_by_round: Vec<f64>,
    /// Half of the operations took no longer.
    pub(crate) p50_ms: f64,
    /// Of a hundred operations, 99 took no longer.
    pub(crate) p99_ms: f64,
    /// CPU of all servers for one operation.
    pub(crate) server_us_per_op: f64,
    /// CPU of the load generator for one operation.
    pub(crate) client_us_per_op: f64,
    /// CPU of everything else on the machine, in percent of one core.
    pub(crate) other_percent: f64,
    /// Operations that failed or gave a wrong answer.
    pub(crate) errors: u64,
    /// What the first of them said.
    pub(crate) first_error: Option<String>,
}

/// Puts the runs of one cell together. Without a right answer, times per operation are infinite
/// or no number.
///
/// # Errors
/// As [`Tally::merge`].
pub(crate) fn summarize(runs: &[Run]) -> Result<Summary> {
    let mut all = Tally::new()?;
    for run in runs {
        all.merge(&run.tally)?;
    }
    let operations = all.operations() as f64;
    let total = |part: fn(&Run) -> Duration| runs.iter().map(part).sum::<Duration>().as_secs_f64();
    let rate = |run: &Run| run.tally.operations() as f64 / run.elapsed.as_secs_f64();
    let seconds = total(|run| run.elapsed);
    Ok(Summary {
        ops_per_s: operations / seconds,
        ops_per_s_by_round: runs.iter().map(rate).collect(),
        p50_ms: all.percentile_ms(0.50),
        p99_ms: all.percentile_ms(0.99),
        server_us_per_op: total(|run| run.server_cpu) * 1e6 / operations,
        client_us_per_op: total(|run| run.client_cpu) * 1e6 / operations,
        other_percent: total(|run| run.other_cpu) / seconds * 100.0,
        errors: all.errors,
        first_error: all.first_error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn run(latencies: &[Duration], seconds: u64) -> Run {
        let mut tally = Tally::new().unwrap();
        latencies.iter().for_each(|&latency| tally.succeeded(latency).unwrap());
        let elapsed = Duration::from_secs(seconds);
        Run { tally, elapsed, server_cpu: 8 * MS, client_cpu: 2 * MS, other_cpu: 60 * MS }
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!((median(&[9.0, 1.0, 2.0]), median(&[4.0, 3.0])), (2.0, 4.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentiles_come_from_the_merged_histogram() {
        // Intent: the median of 98 quick and 2 slow is quick, though the mean of the two
        // medians would be 50 ms, and the slow two are the p99.
        let quick = run(&[MS; 98], 1);
        let slow = run(&[100 * MS; 2], 1);
        let both = summarize(&[quick, slow]).unwrap();
        assert_eq!((both.p50_ms.round(), both.p99_ms.round()), (1.0, 100.0));
    }

    #[test]
    fn rounds_of_different_length_weigh_by_their_time() {
        let summary = summarize(&[run(&[MS; 30], 1), run(&[MS; 10], 3)]).unwrap();
        assert_eq!(summary.ops_per_s, 10.0);
        assert_eq!(summary.ops_per_s_by_round, [30.0, 10.0 / 3.0]);
        assert_eq!((summary.server_us_per_op, summary.client_us_per_op), (400.0, 100.0));
        assert_eq!(summary.other_percent, 3.0);
        assert_eq!((summary.errors, summary.first_error), (0, None));
    }

    #[test]
    fn an_error_is_no_operation_and_the_first_reason_stays() {
        let mut first = run(&[MS; 3], 1);
        first.tally.failed("status 503");
        first.tally.failed("status 504");
        let mut second = run(&[MS], 1);
        second.tally.failed("connection reset");
        let summary = summarize(&[first, second]).unwrap();
        assert_eq!(summary.ops_per_s, 2.0);
        assert_eq!((summary.errors, summary.first_error.as_deref()), (3, Some("status 503")));
    }

    #[test]
    fn a_merged_histogram_holds_values_beyond_its_own() {
        let mut small = Tally::new().unwrap();
        small.succeeded(MS).unwrap();
        let mut large = Tally::new().unwrap();
        large.succeeded(100_000 * MS).unwrap();
        small.merge(&large).unwrap();
        assert_eq!(small.operations(), 2);
        assert!(small.latency_us.max() >= 99_900_000);
    }
}
