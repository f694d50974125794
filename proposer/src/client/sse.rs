//! Server-Sent Events, as far as this program's own servers send them: bytes come in, events go out.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// `id:`
    pub(super) id: String,
    /// `event:`
    pub(super) kind: String,
    /// `data:`, its lines joined.
    pub(super) data: String,
}

/// Events under way.
#[derive(Debug, Default)]
pub(super) struct Events {
    event: Event,
}

impl Events {
    /// Takes a line without its end; returns the event that it completes.
    pub(super) fn line(&mut self, line: &str) -> Option<Event> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // Comments keep the connection alive, and end with an empty line as well.
            return (!event.data.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.event.id = value.to_owned(),
            "event" => self.event.kind = value.to_owned(),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_at_an_empty_line_and_comments_are_passed_over() {
        let text = ": hello\n\nid: 7\r\nevent:put\ndata: {\"a\":\ndata: 1}\n\n:\n\nretry: 5\n\ndata: x\n\n";
        let mut events = Events::default();
        let found: Vec<Event> = text
            .split('\n')
            .filter_map(|line| events.line(line))
            .collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].id, "7");
        assert_eq!(found[0].kind, "put");
        assert_eq!(found[0].data, "{\"a\":\n1}");
        assert_eq!(found[1].data, "x");
    }
}
