//! The doubt about a message that the broker hangs up on. MQTT 3.1.1 has no answer for one that is too
//! large or not wanted: brokers close the connection (3.1.1, section 4.8), and who sends the same
//! message again on each link never gets beyond it. Counts links; knows neither packets nor messages.

/// Links in a row that the broker closed, with something under way and nothing answered, after which
/// messages go one at a time.
const CAREFUL: u32 = 3;
/// Further ones after which the message that was alone on them is to blame.
const ALONE: u32 = 4;
/// How often that number doubles at most. It does with each message blamed while nothing is answered: a
/// broker that hangs up on everything is in trouble itself.
const MOST_DOUBLED: u32 = 6;

#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Links in vain since the last answer.
    in_vain: u32,
    /// Messages blamed since then.
    blamed: u32,
    /// The broker closed the present link.
    hung_up: bool,
}

impl Doubt {
    /// A link begins.
    pub(super) fn begin(&mut self) {
        self.hung_up = false;
    }

    /// The broker has answered a message.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// The broker closes the present link: nothing else is a reason for doubt.
    pub(super) fn hung_up(&mut self) {
        self.hung_up = true;
    }

    /// Messages go one at a time.
    pub(super) fn is_careful(&self) -> bool {
        self.in_vain >= CAREFUL
    }

    /// The link has ended. Some: the first of the messages under way is to blame, after so many links.
    pub(super) fn ended(&mut self, under_way: bool) -> Option<u32> {
        if !(std::mem::take(&mut self.hung_up) && under_way) {
            return None;
        }
        self.in_vain = self.in_vain.saturating_add(1);
        let alone = ALONE << self.blamed.min(MOST_DOUBLED);
        (self.in_vain >= CAREFUL + alone).then_some(self.in_vain)
    }

    /// The message was taken out.
    pub(super) fn blamed(&mut self) {
        self.blamed = self.blamed.saturating_add(1);
        self.in_vain = CAREFUL;
    }
}
