"""Write a recorded session in the formats of other programs.

There is one module for each format. It takes a transcript and writes what the other program reads, by that program's
own specification, and it imports the libraries of the format only when it runs. The HTML page of a session is the
package ``page``. Reading other formats does not belong here.
"""
