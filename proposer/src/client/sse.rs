//! Server-Sent Events, as far as this program's own servers send them: bytes come in, events go out.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// `id:`
    pub(super) id: String,
    /// `event:`
    pub(super) kind: String,
    /// `data:`, its lines joined; empty when the server only says how far it has looked.
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
            return (event != Event::default()).then_some(event);
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
        let text = ": hello\n\n:\nid: 6\n\nid: 7\r\nevent:put\ndata: {\"a\":\ndata: 1}\n\n:\n\nretry: 5\n\ndata: x\n\n";
        let mut events = Events::default();
        let found: Vec<Event> = text
            .split('\n')
            .filter_map(|line| events.line(line))
            .collect();
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].id.as_str(), found[0].data.as_str()), ("6", ""));
        assert_eq!(found[1].id, "7");
        assert_eq!(found[1].kind, "put");
        assert_eq!(found[1].data, "{\"a\":\n1}");
        assert_eq!(found[2].data, "x");
    }
}
