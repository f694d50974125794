//! What JSON a client may have stored. The parser takes more than that: texts that no reader can
//! decode, nesting that overflows readers' stacks, numbers beyond every number type. Such data would
//! come back to everybody who follows the log.

use memchr::memchr2;

/// Lists and objects within each other.
pub const MAX_DEPTH: usize = 128;
/// The largest power of ten of a number, and how many digits its exponent may be written with. This
/// is the range of IEEE 754 decimal128, the widest type that readers have; what it holds beyond a
/// `double`, such as 1e400, is shown to every reader as it was written.
const MAX_EXPONENT: i64 = 6144;

/// Checks a JSON text that a parser has taken already. Reads it once, and copies nothing.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with a field's name.
pub fn check(json: &[u8]) -> Result<(), &'static str> {
    let mut depth = 0;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = text(json, at + 1)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err("has more than 128 lists or objects within each other");
                }
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let length = json[at..]
                    .iter()
                    .take_while(|byte| {
                        matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
                    })
                    .count();
                number(&json[at..at + length])?;
                at += length;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// From after a text's opening quote to after its closing one.
fn text(json: &[u8], start: usize) -> Result<usize, &'static str> {
    let mut at = start;
    loop {
        let Some(special) = memchr2(b'"', b'\\', &json[at..]) else {
            return Ok(json.len());
        };
        at += special;
        if json[at] == b'"' {
            return Ok(at + 1);
        }
        at += match unit(json, at) {
            Some(0xD800..=0xDBFF) => match unit(json, at + 6) {
                Some(0xDC00..=0xDFFF) => 12,
                _ => return Err(LONE_SURROGATE),
            },
            Some(0xDC00..=0xDFFF) => return Err(LONE_SURROGATE),
            Some(_) => 6,
            // An escape of two characters.
            None => 2,
        };
        if at > json.len() {
            return Ok(json.len());
        }
    }
}

const LONE_SURROGATE: &str =
    "has one half of a surrogate pair in a text (\\ud800 to \\udfff), which is no character";

/// The UTF-16 unit that an escape of the form `\uXXXX` stands for.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let escape = json.get(at..at + 6)?;
    let digits = escape.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A number without an exponent is as large as it is long, and needs no look.
fn number(number: &[u8]) -> Result<(), &'static str> {
    const BEYOND: Result<(), &str> =
        Err("has a number beyond 10^6144, which no number type of a reader holds");
    let mark = number.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let Some(mark) = mark else {
        return match integer_digits(number) > MAX_EXPONENT {
            true => BEYOND,
            false => Ok(()),
        };
    };
    let (mantissa, exponent) = (&number[..mark], &number[mark + 1..]);
    if !mantissa.iter().any(|byte| (b'1'..=b'9').contains(byte)) {
        // Zero, whatever the exponent.
        return Ok(());
    }
    let exponent = std::str::from_utf8(exponent).ok();
    let negative = exponent.is_some_and(|text| text.starts_with('-'));
    let exponent = exponent.and_then(|text| text.parse::<i64>().ok());
    match exponent {
        // A number that small reads as zero everywhere.
        _ if negative => Ok(()),
        Some(exponent) if exponent.saturating_add(power(mantissa)) <= MAX_EXPONENT => Ok(()),
        _ => BEYOND,
    }
}

fn integer_digits(mantissa: &[u8]) -> i64 {
    let digits = mantissa.iter().skip_while(|byte| **byte == b'-');
    digits.take_while(|byte| byte.is_ascii_digit()).count() as i64
}

/// The power of ten of a mantissa's first digit that is not 0: 2 for 123.4, -3 for 0.001.
fn power(mantissa: &[u8]) -> i64 {
    let digits = mantissa.iter().filter(|byte| byte.is_ascii_digit());
    let zeros = digits.take_while(|byte| **byte == b'0').count() as i64;
    integer_digits(mantissa) - 1 - zeros
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(open: &str, close: &str, depth: usize) -> String {
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    }

    #[test]
    fn depth_is_bounded_whatever_nests() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"b\": [", "]}]")] {
            let levels = open.matches(['[', '{']).count();
            let fits = MAX_DEPTH / levels;
            assert_eq!(
                check(nested(open, close, fits).as_bytes()),
                Ok(()),
                "{open}"
            );
            assert!(
                check(nested(open, close, fits + 1).as_bytes()).is_err(),
                "{open}"
            );
        }
        assert!(check(nested("[", "]", 200_000).as_bytes()).is_err());
        // Beside each other they are no deeper.
        assert_eq!(
            check(format!("[{}[]]", "[],".repeat(5000)).as_bytes()),
            Ok(())
        );
        // Brackets within a text are text.
        assert_eq!(
            check(format!("\"{}\"", "[".repeat(5000)).as_bytes()),
            Ok(())
        );
        assert_eq!(
            check(format!("\"\\\"{}\"", "{".repeat(5000)).as_bytes()),
            Ok(())
        );
    }

    #[test]
    fn every_text_can_be_decoded() {
        for good in [
            r#""""#,
            r#""é""#,
            r#""\u00e9""#,
            r#""\ud83d\ude00""#,
            r#""\uD83D\uDE00x""#,
            r#""\\ud800""#,
            r#""\\\\""#,
            r#""\"\\\"""#,
            r#"{"\ud83d\ude00":["\/"]}"#,
            r#""\u0000""#,
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            r#""\ud800""#,
            r#""\uDFFF""#,
            r#""\ud83d""#,
            r#""\ud83dx\ude00""#,
            r#""\ude00\ud83d""#,
            r#""\ud83d\ud83d\ude00""#,
            r#"{"\udc00":1}"#,
            r#"["a",{"b":"\\\ud801"}]"#,
            r#""\ud800\n""#,
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_within_what_readers_have() {
        for good in [
            "0",
            "-0.0",
            "1e308",
            "1e400",
            "-1E+400",
            "0e999999",
            "-0.000e+9999999999999999999",
            "1e-999999",
            "12e6143",
            "0.001e6147",
            "123456789012345678901234567890.5",
            "[1e5,{\"a\":1e6144}]",
            "\"1e999999\"",
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            "1e999999",
            "-1e999999",
            "1e6145",
            "12e6144",
            "0.001e6148",
            "1E+99999999999999999999",
            "[0,[1e10000]]",
            "{\"a\":-2.5e7000}",
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(check("9".repeat(6145).as_bytes()).is_err());
        assert_eq!(check("9".repeat(6144).as_bytes()), Ok(()));
    }
}
