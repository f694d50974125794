//! Numbers as clients write them: in JSON `1`, `1.0` and `1e0` are one number.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// 2^64, the first number that is no u64.
const LIMIT: f64 = 18_446_744_073_709_551_616.0;

/// A whole number.
pub(crate) fn whole<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    deserializer.deserialize_any(Number::<T> {
        fraction: false,
        of: PhantomData,
    })
}

/// A whole number, or `null`.
pub(crate) fn whole_or_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    struct OrNull<T>(PhantomData<T>);

    impl<'de, T: TryFrom<u64>> Visitor<'de> for OrNull<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number of at least 0, or null")
        }

        fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Option<T>, D::Error> {
            whole(d).map(Some)
        }
    }

    deserializer.deserialize_option(OrNull(PhantomData))
}

/// Milliseconds. Of a number with a fraction, as clients with floating-point clocks send it, the
/// whole part.
pub(crate) fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Number {
        fraction: true,
        of: PhantomData,
    })
}

struct Number<T> {
    fraction: bool,
    of: PhantomData<T>,
}

impl<T: TryFrom<u64>> Visitor<'_> for Number<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest = u64::MAX >> (64 - 8 * size_of::<T>());
        let whole = if self.fraction { "" } else { " whole" };
        write!(f, "a{whole} number from 0 to {largest}")
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<T, E> {
        T::try_from(v).map_err(|_| E::invalid_value(Unexpected::Unsigned(v), &self))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<T, E> {
        match u64::try_from(v) {
            Ok(v) => self.visit_u64(v),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(v), &self)),
        }
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<T, E> {
        if (0.0..LIMIT).contains(&v) && (self.fraction || v.fract() == 0.0) {
            self.visit_u64(v as u64)
        } else {
            Err(E::invalid_value(Unexpected::Float(v), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Numbers {
        #[serde(deserialize_with = "whole")]
        small: u8,
        #[serde(deserialize_with = "whole_or_null", default)]
        large: Option<u64>,
        #[serde(deserialize_with = "milliseconds")]
        time: u64,
    }

    fn parse(small: &str, large: &str, time: &str) -> Result<Numbers, String> {
        let json = format!(r#"{{"small":{small},"large":{large},"time":{time}}}"#);
        serde_json::from_str(&json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        let numbers = Numbers {
            small: 255,
            large: Some(1_000_000),
            time: 12,
        };
        assert_eq!(parse("255", "1000000", "12"), Ok(numbers));
        assert_eq!(parse("255.0", "1e6", "12.9"), parse("255", "1000000", "12"));
        assert_eq!(parse("0", "null", "0").unwrap().large, None);
        // A parser that rounds would make it ….8.
        let large = parse("0", "2066028014242073.0", "0").unwrap().large;
        assert_eq!(large, Some(2_066_028_014_242_073));
        let largest = u64::MAX.to_string();
        assert_eq!(parse("0", &largest, "0").unwrap().large, Some(u64::MAX));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        for (bad, expected) in [
            (parse("256", "1", "1"), "a whole number from 0 to 255"),
            (parse("-1", "1", "1"), "a whole number from 0 to 255"),
            (parse("1.5", "1", "1"), "a whole number from 0 to 255"),
            (
                parse("1", "\"1\"", "1"),
                "a whole number from 0 to 18446744073709551615",
            ),
            (
                parse("1", "18446744073709551616", "1"),
                "a whole number from 0 to 18446744073709551615",
            ),
            (parse("1", "1", "-0.5"), "a number from 0 to"),
            (parse("1", "1", "true"), "a number from 0 to"),
        ] {
            let error = bad.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
