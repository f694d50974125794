//! Properties of many random inputs, seeded, each failure with the command that repeats it.
//!
//! `FUZZ_TIMES` is the number of rounds of every property instead of one, `FUZZ_SEED` the first
//! round's seed instead of 1. A round is small, so that a failure is found again in seconds.

use std::env;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// One test at a time, so that memory can be measured.
static ALONE: Mutex<()> = Mutex::new(());

/// A test of the suite, while no other one runs.
pub struct Fuzz {
    test: &'static str,
    _alone: MutexGuard<'static, ()>,
}

impl Fuzz {
    /// Waits until the test of that name may run. Call before anything large is made.
    pub fn begin(test: &'static str) -> Fuzz {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Fuzz {
            test,
            _alone: alone,
        }
    }

    /// Checks a property on `cases` inputs a round.
    ///
    /// # Panics
    /// When an input breaks it: with the smallest such input found and the command.
    pub fn check<S: Strategy>(
        &self,
        cases: u32,
        inputs: &S,
        property: impl Fn(S::Value) -> Result<(), TestCaseError>,
    ) {
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
                    "{reason}\ninput: {input:?}\nagain: FUZZ_SEED={seed} cargo test -p tests \
                     --test fuzz {}",
                    self.test
                ),
            }
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
