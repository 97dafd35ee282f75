//! Kubernetes quantities, as far as they must be checked before a cluster sees them: `512Mi`, `0.5`, `250m`, `1e3`.

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// A minus sign in front.
    #[error("a quantity cannot be negative")]
    Negative,
    /// Anything else.
    #[error("not a quantity; write for example 10Gi, 512Mi, 500m or 2")]
    Malformed,
}

/// Suffixes of the Kubernetes API, binary and decimal. The empty one is last because every text ends with it.
const SUFFIXES: [&str; 16] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "n", "u", "m", "k", "M", "G", "T", "P", "E", ""];

/// Checks that `text` is a quantity of the Kubernetes API that is not below zero.
///
/// # Errors
/// What is wrong with the text; the text itself is left to the caller to show.
pub fn check(text: &str) -> Result<(), QuantityError> {
    if text.starts_with('-') {
        return Err(QuantityError::Negative);
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let well_formed = match text.split_once(['e', 'E']) {
        Some((number, exponent)) if !exponent.is_empty() && exponent != "i" => {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            is_number(number) && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        }
        _ => SUFFIXES.iter().any(|suffix| text.strip_suffix(suffix).is_some_and(is_number)),
    };
    if well_formed { Ok(()) } else { Err(QuantityError::Malformed) }
}

/// Digits with at most one point, and at least one digit.
fn is_number(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    !(whole.is_empty() && fraction.is_empty()) && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_kubernetes_api_accepts() {
        for text in [
            "0", "2", "0.5", ".5", "5.", "+1", "250m", "10Gi", "512Mi", "1.5Gi", "1E", "1Ei", "1e3", "1E3", "1e-3",
            "9k",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "Gi", "10GB", "10 Gi", "ten", "1.2.3", "1e", "1e+", "10gi", "10K", "0x10", ".", "1eGi", "e3"] {
            assert_eq!(check(text), Err(QuantityError::Malformed), "{text:?}");
        }
        assert_eq!(check("-1Gi"), Err(QuantityError::Negative));
    }
}
