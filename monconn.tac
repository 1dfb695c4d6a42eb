"""``twistd -y monconn.tac``: runs the file that MONCONN_CONFIG names, or monconn.yaml."""

from twisted.application.service import Application

from monconn.run.plugin import service_from_environment

application = Application("monconn")
service_from_environment().setServiceParent(application)
