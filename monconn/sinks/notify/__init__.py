"""Notifications: events that are sent to webhooks, and by Apprise to mail, chats and the like."""
