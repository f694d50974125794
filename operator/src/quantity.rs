//! Kubernetes quantities (`500m`, `1.5Gi`, `1e3`) as numbers. The API server rewrites them
//! (`1000m` comes back as `1`), so they are compared by value.

/// A quantity in billionths; `None` when it is not one or does not fit.
pub fn nanos(text: &str) -> Option<i128> {
    let text = text.trim();
    let digits_end = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && matches!(c, '+' | '-'))))
        .map_or(text.len(), |(at, _)| at);
    let (number, suffix) = text.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let whole = whole.trim_start_matches(['+', '-']);
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = i32::try_from(fraction.len()).ok()?;
    let (binary, exponent) = match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (
            0,
            suffix
                .strip_prefix(['e', 'E'])?
                .parse()
                .ok()
                .filter(|e| (-18..=18).contains(e))?,
        ),
    };
    let value = mantissa.checked_mul(1 << binary)?;
    let exponent = exponent + 9 - scale;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    // Below a billionth, Kubernetes rounds up.
    let value = if exponent < 0 {
        value / power + i128::from(value % power != 0)
    } else {
        value.checked_mul(power)?
    };
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::nanos;

    #[test]
    fn ways_to_write_one_quantity_are_equal() {
        for (a, b) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1e3", "1k"),
            ("+2", "2."),
            (".5", "5e-1"),
        ] {
            assert!(nanos(a).is_some(), "{a}");
            assert_eq!(nanos(a), nanos(b), "{a} {b}");
        }
        assert_ne!(nanos("1G"), nanos("1Gi"));
        assert_eq!(nanos("-1"), Some(-1_000_000_000));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "ten", "1 Gi", "1gi", "1.2.3", "-", "1e99", "Gi", "--1", "1KiB",
        ] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }
}
