//! What a TLS failure means, in a sentence, and how soon it is worth another dial.

use std::fmt::Write as _;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::error::ConnectionError;

/// What a failed handshake, read or write means, if TLS is the reason. With TLS 1.3 the server
/// refuses a client's certificate only after the handshake: ask for errors of reads too.
#[must_use]
pub fn explain(error: &io::Error) -> Option<ConnectionError> {
    let tls = error.get_ref()?.downcast_ref::<Error>()?;
    let (code, message) = match tls {
        Error::InvalidCertificate(reason) => certificate_sentence(reason),
        Error::AlertReceived(alert) => alert_sentence(*alert),
        Error::PeerIncompatible(_) => (
            "tls:version",
            "the server offers no TLS version or cipher that is allowed here".to_owned(),
        ),
        Error::InvalidMessage(_) => (
            "tls:not-tls",
            "the other side does not speak TLS on this port".to_owned(),
        ),
        _ => ("tls", "the TLS handshake failed".to_owned()),
    };
    let failure = ConnectionError::disconnected(code, message).caused_by(tls.clone());
    let slow = matches!(code, "tls:certificate" | "tls:refused" | "tls:version");
    Some(if slow { failure.slow() } else { failure })
}

fn certificate_sentence(reason: &CertificateError) -> (&'static str, String) {
    let text = match reason {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate expired at {}", utc(not_after.as_secs()))
        }
        CertificateError::Expired => "certificate expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate not valid before {}", utc(not_before.as_secs()))
        }
        CertificateError::NotValidYet => "certificate not valid yet".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another name".to_owned()
        }
        // A renewed authority often keeps its name: then the signature is what does not fit.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is signed by an unknown authority".to_owned()
        }
        CertificateError::Revoked => "the server's certificate is revoked".to_owned(),
        _ => "the server's certificate is not valid".to_owned(),
    };
    ("tls:certificate", text)
}

fn alert_sentence(alert: AlertDescription) -> (&'static str, String) {
    let why = match alert {
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::UnknownCA => "it does not know who signed it",
        AlertDescription::CertificateRequired => "it wants one and none is configured",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => "it is not accepted",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::ProtocolVersion => {
            return (
                "tls:version",
                "the server refuses every TLS version that is allowed here".to_owned(),
            );
        }
        AlertDescription::UnrecognisedName => {
            return (
                "tls:certificate",
                "the server does not know the name it was asked for".to_owned(),
            );
        }
        _ => return ("tls", "the server ended the TLS handshake".to_owned()),
    };
    (
        "tls:refused",
        format!("the server refused the client certificate: {why}"),
    )
}

/// A time as RFC 3339 in UTC, from seconds since 1970.
pub(super) fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date from a day count, after the era arithmetic of the proleptic Gregorian calendar.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut text = format!("{year:04}-{month:02}-{day:02}T");
    // Writing to a String cannot fail.
    write!(
        text,
        "{:02}:{:02}:{:02}Z",
        second / 3_600,
        second % 3_600 / 60,
        second % 60
    )
    .ok();
    text
}
