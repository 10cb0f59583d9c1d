//! The few items of many that make a run fail.
//!
//! A thousand faults went in and something broke; usually three of them were
//! needed. Delta debugging finds them: `ddmin` of Zeller and Hildebrandt,
//! *Simplifying and isolating failure-inducing input* (IEEE TSE 28(2), 2002).
//! Cut the items into chunks; if one chunk alone still fails, go on with it;
//! if all but one chunk still fails, go on with those; otherwise cut finer.
//! When the chunks are single items and none can be left out, the rest is
//! 1-minimal: it fails, and without any one of its items it does not.
//!
//! Left out: the smallest failing subsequence of all, which would take trying
//! every one of them. Leaving out two items at once may still fail.

/// Leaves out what is not needed for the failure; what remains is in its old order.
///
/// `items` are known to fail. `fails` is asked at most `attempts_max` times, and should answer the
/// same when asked the same. The result always fails; it is 1-minimal if the attempts sufficed.
/// Nothing at all is tried as well, so the result may be empty.
pub fn minimise<T: Clone>(
    items: &[T],
    attempts_max: usize,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut failing = items.to_vec();
    let mut chunks = 2;
    let mut attempts = 0;
    let mut try_out = |candidate: &[T]| {
        attempts += 1;
        if attempts > attempts_max { None } else { Some(fails(candidate)) }
    };
    while failing.len() > 1 {
        chunks = chunks.min(failing.len());
        match narrower(&failing, chunks, &mut try_out) {
            Step::OutOfAttempts => return failing,
            Step::Chunk(chunk) => (failing, chunks) = (chunk, 2),
            Step::Rest(rest) => (failing, chunks) = (rest, (chunks - 1).max(2)),
            Step::Neither if chunks == failing.len() => return failing,
            Step::Neither => chunks *= 2,
        }
    }
    if !failing.is_empty() && try_out(&[]) == Some(true) {
        failing.clear();
    }
    failing
}

/// What one round over the chunks found.
enum Step<T> {
    /// This chunk alone fails.
    Chunk(Vec<T>),
    /// All chunks but one fail.
    Rest(Vec<T>),
    Neither,
    OutOfAttempts,
}

fn narrower<T: Clone>(
    failing: &[T],
    chunks: usize,
    try_out: &mut impl FnMut(&[T]) -> Option<bool>,
) -> Step<T> {
    // Chunks differ in length by one at most, and none is empty.
    let bounds = |n: usize| n * failing.len() / chunks..(n + 1) * failing.len() / chunks;
    for chunk in (0..chunks).map(bounds) {
        match try_out(&failing[chunk.clone()]) {
            Some(true) => return Step::Chunk(failing[chunk].to_vec()),
            Some(false) => {}
            None => return Step::OutOfAttempts,
        }
    }
    if chunks == 2 {
        return Step::Neither; // All but one chunk is the other one, which was tried.
    }
    for chunk in (0..chunks).map(bounds) {
        let rest = [&failing[..chunk.start], &failing[chunk.end..]].concat();
        match try_out(&rest) {
            Some(true) => return Step::Rest(rest),
            Some(false) => {}
            None => return Step::OutOfAttempts,
        }
    }
    Step::Neither
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Fails where all of these are in it.
    fn needs(culprits: &[u32]) -> impl Fn(&[u32]) -> bool {
        move |items| culprits.iter().all(|culprit| items.contains(culprit))
    }

    fn thousand() -> Vec<u32> {
        (0..1000).collect()
    }

    #[test]
    fn the_culprits_are_found_in_their_order() {
        assert_eq!(minimise(&thousand(), 1000, needs(&[617])), [617]);
        assert_eq!(minimise(&thousand(), 1000, needs(&[998, 3, 617])), [3, 617, 998]);
        assert_eq!(minimise(&thousand(), 1000, needs(&[499, 500])), [499, 500]);
    }

    #[test]
    fn few_culprits_take_few_attempts() {
        let mut attempts = 0;
        let found = minimise(&thousand(), usize::MAX, |items| {
            attempts += 1;
            needs(&[3, 617, 998])(items)
        });
        assert_eq!((found.len(), attempts), (3, 242));
    }

    #[test]
    fn what_cannot_be_narrowed_stays_whole() {
        let items: Vec<u32> = (0..9).collect();
        assert_eq!(minimise(&items, 1000, |tried| tried.len() == 9), items);
    }

    #[test]
    fn what_fails_without_any_item_needs_none() {
        assert!(minimise(&thousand(), 1000, |_| true).is_empty());
        assert!(minimise(&[] as &[u32], 1000, |_| true).is_empty());
    }

    #[test]
    fn out_of_attempts_it_returns_what_is_known_to_fail() {
        assert_eq!(minimise(&thousand(), 0, needs(&[617])), thousand());
        for attempts_max in [1, 2, 5, 10, 20] {
            let mut asked = 0;
            let found = minimise(&thousand(), attempts_max, |items| {
                asked += 1;
                needs(&[3, 617])(items)
            });
            assert!(asked <= attempts_max);
            assert!(needs(&[3, 617])(&found));
        }
    }

    /// Fails where the sum is large, which many different subsequences do.
    fn heavy(items: &[u32]) -> bool {
        items.iter().sum::<u32>() >= 100
    }

    proptest! {
        #[test]
        fn without_any_one_item_it_no_longer_fails(
            items in prop::collection::vec(0_u32..40, 1..60)
                .prop_filter("it must fail", |items| heavy(items))
        ) {
            let found = minimise(&items, usize::MAX, heavy);
            prop_assert!(heavy(&found));
            for n in 0..found.len() {
                let mut fewer = found.clone();
                fewer.remove(n);
                prop_assert!(!heavy(&fewer), "{found:?} without item {n}");
            }
            let mut rest = items.iter();
            prop_assert!(found.iter().all(|item| rest.any(|other| other == item)), "in order");
        }
    }
}
