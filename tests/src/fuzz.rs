//! Properties of many random inputs, seeded, each failure with the command that repeats it.
//!
//! `FUZZ_TIMES` runs every property so many rounds instead of one, `FUZZ_SEED` is the first round's
//! seed instead of 1. A round is small, so that a failure is found again in seconds.

use std::env;
use std::sync::{Mutex, PoisonError};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// One property at a time, so that memory can be measured.
static ALONE: Mutex<()> = Mutex::new(());

/// Checks `cases` inputs a round. `test` is the name of the calling test.
///
/// # Panics
/// When an input breaks the property: with the smallest such input found and the command.
pub fn check<S: Strategy>(
    test: &str,
    cases: u32,
    inputs: &S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let first = number("FUZZ_SEED").unwrap_or(1);
    for seed in (first..).take(number("FUZZ_TIMES").unwrap_or(1) as usize) {
        let config = Config {
            cases,
            failure_persistence: None,
            ..Config::default()
        };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config, rng);
        match runner.run(inputs, &property) {
            Ok(()) => {}
            Err(TestError::Abort(reason)) => panic!("{reason}"),
            Err(TestError::Fail(reason, input)) => panic!(
                "{reason}\ninput: {input:?}\nagain: FUZZ_SEED={seed} cargo test -p tests --test \
                 fuzz {test}"
            ),
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
    )
}
